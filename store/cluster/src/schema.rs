//! The tables of the cluster, as data: what each serves, and what makes it.
//!
//! Called by the commands that make, upgrade and check a keyspace, and by the node's start. Pure:
//! what is there goes in, what is to be done or what is wrong comes out. `docs/cassandra.md` tells
//! the same to people; a test holds the two together.
//!
//! # Rules that all tables keep
//!
//! * No counters and no lightweight transactions where mail is delivered.
//! * Every write may be done again: its key follows from what is written.
//! * No partition grows without bound: mailboxes by weeks, the queue by hours, bodies by messages.
//! * Who deletes as POP3 does, the oldest first, leaves nothing that readers have to pass over:
//!   they begin at a mark behind it.

use core::fmt;
use std::collections::BTreeMap;

/// The version of the tables. A node starts with its own only.
pub const VERSION: u32 = 2;
/// The row of `facts` that holds the version.
pub const VERSION_NAME: &str = "schema";

/// A table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What it is for, and the query that it serves.
    pub serves: &'static str,
    /// Names and types of its columns.
    pub columns: &'static [(&'static str, &'static str)],
    /// The partition's columns in brackets, then those that order its rows.
    pub key: &'static str,
    /// The largest partition, in words.
    pub partition: &'static str,
    /// What else is to be said to Cassandra.
    pub options: &'static str,
}

/// Compaction for what is written once and removed as a whole.
const LARGE: &str = "compaction = {'class': 'SizeTieredCompactionStrategy'} \
     AND compression = {'enabled': 'false'}";
/// Compaction for what is read by small slices, and partly removed.
const SMALL: &str = "compaction = {'class': 'LeveledCompactionStrategy'}";
/// The same for rows that end by themselves.
const SHORT: &str =
    "compaction = {'class': 'LeveledCompactionStrategy'} AND gc_grace_seconds = 3600";

/// All of them, in the order in which they are made.
pub const TABLES: [Table; 18] = [
    Table {
        name: "facts",
        serves: "what holds for the whole keyspace, as its version: one row by name",
        columns: &[("name", "text"), ("value", "text")],
        key: "(name)",
        partition: "one row",
        options: SMALL,
    },
    Table {
        name: "numbers",
        serves: "the next number of each kind (mailboxes); a lightweight transaction takes some, \
                 when an account is made",
        columns: &[("kind", "text"), ("next", "bigint")],
        key: "(kind)",
        partition: "one row",
        options: SMALL,
    },
    Table {
        name: "domains",
        serves: "all domains at a start, paged",
        columns: &[("domain", "text"), ("created", "timestamp")],
        key: "(domain)",
        partition: "one row",
        options: SMALL,
    },
    Table {
        name: "accounts",
        serves: "an account by its address; all at a start, paged",
        columns: &[
            ("address", "text"),
            ("mailbox", "bigint"),
            ("name", "text"),
            ("lock", "blob"),
            ("keys", "blob"),
            ("created", "timestamp"),
        ],
        key: "(address)",
        partition: "one row of some 3 KB",
        options: SMALL,
    },
    Table {
        name: "aliases",
        serves: "an alias by its address; all at a start, paged",
        columns: &[("address", "text"), ("targets", "frozen<list<text>>")],
        key: "(address)",
        partition: "one row, 100 targets at most",
        options: SMALL,
    },
    Table {
        name: "changes",
        serves: "which domains, accounts and aliases have changed since a node looked last: the \
                 rows of a day behind a time",
        columns: &[("day", "int"), ("at", "timeuuid"), ("kind", "text"), ("name", "text")],
        key: "(day), at",
        partition: "the changes of a day, some 100 bytes each; gone after 30 days",
        options: "compaction = {'class': 'TimeWindowCompactionStrategy', \
                  'compaction_window_unit': 'DAYS', 'compaction_window_size': '1'} \
                  AND default_time_to_live = 2592000",
    },
    Table {
        name: "weeks",
        serves: "the weeks from which a mailbox may have messages: all of one mailbox",
        columns: &[("mailbox", "bigint"), ("week", "int")],
        key: "(mailbox), week",
        partition: "52 rows a year, 20 bytes each; the rows of weeks that are empty go",
        options: SMALL,
    },
    Table {
        name: "messages",
        serves: "the messages of a mailbox from one week, from a mark on: a slice by id",
        columns: &[
            ("mailbox", "bigint"),
            ("week", "int"),
            ("id", "bigint"),
            ("octets", "bigint"),
            ("uid", "int"),
            ("flags", "int"),
            ("shared", "boolean"),
            ("wrap", "blob"),
        ],
        key: "(mailbox, week), id",
        partition: "the messages of a week, some 200 bytes each: 100 MB for 70,000 a day",
        options: SMALL,
    },
    Table {
        name: "late",
        serves: "messages that came into a mailbox long after they were named, and may lie in \
                 front of its mark: all of one mailbox",
        columns: &[("mailbox", "bigint"), ("id", "bigint")],
        key: "(mailbox), id",
        partition: "what nodes could not deliver for a while, 20 bytes each",
        options: SHORT,
    },
    Table {
        name: "states",
        serves: "what a mailbox remembers: the next uid, the mark that nothing lies in front of",
        columns: &[("mailbox", "bigint"), ("uid_next", "int"), ("mark", "bigint")],
        key: "(mailbox)",
        partition: "one row",
        options: SMALL,
    },
    Table {
        name: "windows",
        serves: "what opens the keys of a mailbox's messages: those of one mailbox",
        columns: &[("mailbox", "bigint"), ("window", "blob"), ("record", "blob")],
        key: "(mailbox), window",
        partition: "one row of some 400 bytes for each node and half an hour with mail",
        options: SMALL,
    },
    Table {
        name: "bodies",
        serves: "a message, as it was sealed: its chunks by their numbers",
        columns: &[("id", "bigint"), ("chunk", "int"), ("data", "blob")],
        key: "(id), chunk",
        partition: "one message, in chunks of 256 KiB at most",
        options: LARGE,
    },
    Table {
        name: "holders",
        serves: "which mailboxes have a message that came into several: the body goes with the \
                 last one",
        columns: &[("id", "bigint"), ("mailbox", "bigint")],
        key: "(id), mailbox",
        partition: "the recipients of a message, 16,384 at most, 16 bytes each",
        options: SMALL,
    },
    Table {
        name: "removals",
        serves: "accounts that were removed, whose mail goes: all of them, at a start and each \
                 hour",
        columns: &[("part", "int"), ("mailbox", "bigint"), ("since", "timestamp")],
        key: "(part), mailbox",
        partition: "the accounts that were removed within a week, 30 bytes each",
        options: SHORT,
    },
    Table {
        name: "outgoing",
        serves: "mail that is to travel on, in the hands of a node: that of one span of 16 s, when \
                 the node starts, or another one stands in for it",
        columns: &[
            ("node", "int"),
            ("span", "int"),
            ("id", "bigint"),
            ("octets", "bigint"),
            ("wrap", "blob"),
            ("window", "blob"),
            ("state", "blob"),
            ("writer", "int"),
            ("done", "boolean"),
        ],
        key: "(node, span), id",
        partition: "what a node has taken to send in 16 s, some 600 bytes each",
        options: SMALL,
    },
    Table {
        name: "outgoing_spans",
        serves: "the spans from which a node may have outgoing mail: all of one node",
        columns: &[("node", "int"), ("span", "int")],
        key: "(node), span",
        partition: "5,400 rows a day at most, 20 bytes each; gone after 30 days",
        options: "compaction = {'class': 'LeveledCompactionStrategy'} \
                  AND default_time_to_live = 2592000",
    },
    Table {
        name: "outgoing_bodies",
        serves: "outgoing mail, as it was sealed: its chunks by their numbers, and its envelope by \
                 numbers below 0",
        columns: &[("id", "bigint"), ("chunk", "int"), ("data", "blob")],
        key: "(id), chunk",
        partition: "one message, in chunks of 256 KiB at most",
        options: LARGE,
    },
    Table {
        name: "leases",
        serves: "who works on something for now: a mailbox (POP3), a node's number, its outgoing \
                 mail; ends by itself when the holder does not renew it",
        columns: &[("name", "text"), ("holder", "text"), ("epoch", "bigint")],
        key: "(name)",
        partition: "one row",
        options: SHORT,
    },
];

impl Table {
    /// What makes it.
    #[must_use]
    pub fn create(&self, keyspace: &str) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|(name, kind)| format!("    {name} {kind},\n")).collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {keyspace}.{} (\n{}    PRIMARY KEY ({})\n) WITH {}",
            self.name,
            columns.concat(),
            self.key,
            self.options
        )
    }
}

/// How a keyspace is replicated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replication {
    /// So many copies, wherever; for one data centre.
    Simple(u8),
    /// So many in each of these data centres.
    ByCentre(BTreeMap<String, u8>),
}

/// What makes the keyspace.
#[must_use]
pub fn create_keyspace(keyspace: &str, replication: &Replication) -> String {
    let how = match replication {
        Replication::Simple(copies) => {
            format!("'class': 'SimpleStrategy', 'replication_factor': {copies}")
        }
        Replication::ByCentre(centres) => {
            let each: Vec<String> =
                centres.iter().map(|(name, copies)| format!("'{name}': {copies}")).collect();
            format!("'class': 'NetworkTopologyStrategy', {}", each.join(", "))
        }
    };
    format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{{how}}}")
}

/// What is in a keyspace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct There {
    /// Whether there is such a keyspace.
    pub keyspace: bool,
    /// Its tables, and names and types of their columns.
    pub tables: BTreeMap<String, BTreeMap<String, String>>,
    /// Its version, when it says one.
    pub version: Option<String>,
}

/// What is wrong with a keyspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is none.
    NoKeyspace,
    /// It has none of our tables.
    Empty,
    /// It does not say its version, or what it says is none.
    NoVersion,
    /// It is older than this program.
    Older(u32),
    /// It is newer.
    Newer(u32),
    /// A table is not there.
    NoTable(&'static str),
    /// A column is not there.
    NoColumn(&'static str, &'static str),
    /// A column is of another type.
    OtherType {
        /// Of this table.
        table: &'static str,
        /// This one.
        column: &'static str,
        /// As it is.
        is: String,
        /// As it should be.
        wanted: &'static str,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKeyspace => f.write_str("there is no such keyspace: `store create` makes it"),
            Self::Empty => f.write_str("the keyspace is empty: `store create` makes its tables"),
            Self::NoVersion => f.write_str("the keyspace does not say its version"),
            Self::Older(found) => write!(
                f,
                "the keyspace has version {found}, this program {VERSION}: `store upgrade` brings \
                 it up"
            ),
            Self::Newer(found) => write!(
                f,
                "the keyspace has version {found}, this program {VERSION}: a newer program has \
                 upgraded it"
            ),
            Self::NoTable(table) => write!(f, "table {table} is not there"),
            Self::NoColumn(table, column) => write!(f, "column {table}.{column} is not there"),
            Self::OtherType { table, column, is, wanted } => {
                write!(f, "column {table}.{column} is {is}, not {wanted}")
            }
        }
    }
}

impl core::error::Error for Problem {}

/// The version of what is there.
///
/// # Errors
/// Why it is none.
fn version(there: &There) -> Result<u32, Problem> {
    if !there.keyspace {
        return Err(Problem::NoKeyspace);
    }
    if !TABLES.iter().any(|table| there.tables.contains_key(table.name)) {
        return Err(Problem::Empty);
    }
    there.version.as_deref().and_then(|text| text.parse().ok()).ok_or(Problem::NoVersion)
}

/// Everything that keeps a node from working with what is there; empty when nothing does.
#[must_use]
pub fn problems(there: &There) -> Vec<Problem> {
    match version(there) {
        Err(problem @ (Problem::NoKeyspace | Problem::Empty)) => vec![problem],
        Ok(found) if found < VERSION => vec![Problem::Older(found)],
        Ok(found) if found > VERSION => vec![Problem::Newer(found)],
        Ok(_) => shape(there).collect(),
        Err(problem) => core::iter::once(problem).chain(shape(there)).collect(),
    }
}

/// What of the tables is not as it should be.
fn shape(there: &There) -> impl Iterator<Item = Problem> {
    TABLES.iter().flat_map(|table| match there.tables.get(table.name) {
        None => vec![Problem::NoTable(table.name)],
        Some(columns) => table
            .columns
            .iter()
            .filter_map(|&(column, wanted)| match columns.get(column) {
                None => Some(Problem::NoColumn(table.name, column)),
                Some(is) if is != wanted => {
                    Some(Problem::OtherType { table: table.name, column, is: is.clone(), wanted })
                }
                Some(_) => None,
            })
            .collect(),
    })
}

/// The statements that make what is not there yet, the version last: who is interrupted begins
/// anew, and no node starts with half of it.
///
/// # Errors
/// When something is there that making tables does not mend.
pub fn create(
    keyspace: &str,
    replication: &Replication,
    there: &There,
) -> Result<Vec<String>, Problem> {
    match version(there) {
        Ok(found) if found < VERSION => return Err(Problem::Older(found)),
        Ok(found) if found > VERSION => return Err(Problem::Newer(found)),
        _ => {}
    }
    let is_wrong =
        |problem: &Problem| matches!(problem, Problem::NoColumn(..) | Problem::OtherType { .. });
    if let Some(problem) = shape(there).find(is_wrong) {
        return Err(problem);
    }
    let mut all = Vec::new();
    if !there.keyspace {
        all.push(create_keyspace(keyspace, replication));
    }
    let missing = TABLES.iter().filter(|table| !there.tables.contains_key(table.name));
    all.extend(missing.map(|table| table.create(keyspace)));
    if there.version.is_none() {
        all.push(say_version(keyspace));
    }
    Ok(all)
}

/// The statements that bring an older keyspace up to this version.
///
/// # Errors
/// When there is none, or a newer one.
pub fn upgrade(keyspace: &str, there: &There) -> Result<Vec<String>, Problem> {
    let found = version(there)?;
    if found > VERSION {
        return Err(Problem::Newer(found));
    }
    // Versions have added tables only, so far.
    let missing = TABLES.iter().filter(|table| !there.tables.contains_key(table.name));
    let mut all: Vec<String> = missing.map(|table| table.create(keyspace)).collect();
    if found < VERSION {
        all.push(say_version(keyspace));
    }
    Ok(all)
}

fn say_version(keyspace: &str) -> String {
    format!("INSERT INTO {keyspace}.facts (name, value) VALUES ('{VERSION_NAME}', '{VERSION}')")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn whole() -> There {
        let columns = |table: &Table| {
            table.columns.iter().map(|(n, k)| ((*n).to_owned(), (*k).to_owned())).collect()
        };
        There {
            keyspace: true,
            tables: TABLES.iter().map(|table| (table.name.to_owned(), columns(table))).collect(),
            version: Some(VERSION.to_string()),
        }
    }

    #[test]
    fn tables_are_made_of_what_stands_in_them() {
        let mut names = BTreeSet::new();
        for table in &TABLES {
            assert!(names.insert(table.name));
            let columns: BTreeSet<&str> = table.columns.iter().map(|(name, _)| *name).collect();
            assert_eq!(columns.len(), table.columns.len(), "{}", table.name);
            let key = table.key.split(['(', ')', ',', ' ']).filter(|part| !part.is_empty());
            assert!(key.clone().count() > 0 && key.collect::<BTreeSet<_>>().is_subset(&columns));
            let text = table.create("k");
            assert!(!text.contains("counter") && text.starts_with("CREATE TABLE IF NOT EXISTS k."));
            assert!(text.contains(&format!("PRIMARY KEY ({})", table.key)), "{text}");
        }
    }

    /// So that nobody changes one of them alone.
    #[test]
    fn the_page_tells_of_every_table_and_column() {
        let page = include_str!("../../../docs/cassandra.md");
        for table in &TABLES {
            let (_, rest) = page.split_once(&format!("### {}\n", table.name)).unwrap();
            let part = rest.split("\n#").next().unwrap();
            let said: BTreeSet<&str> = part.split('`').skip(1).step_by(2).collect();
            for (column, kind) in table.columns {
                assert!(said.contains(column) && part.contains(kind), "{}.{column}", table.name);
            }
            assert!(part.contains(&format!("* Key: `{}`\n", table.key)), "{}", table.name);
            assert!(part.contains(table.partition), "{}", table.name);
        }
    }

    #[test]
    fn a_keyspace_is_made_once_and_goes_on_where_it_was_interrupted() {
        let one = Replication::Simple(3);
        let all = create("mail", &one, &There::default()).unwrap();
        assert_eq!(all.len(), 1 + TABLES.len() + 1);
        assert!(all[0].contains("'replication_factor': 3"), "{}", all[0]);
        assert!(all.last().unwrap().starts_with("INSERT INTO mail.facts"));
        assert_eq!(create("mail", &one, &whole()), Ok(Vec::new()));
        let mut half = whole();
        half.version = None;
        half.tables.remove("bodies");
        let rest = create("mail", &one, &half).unwrap();
        assert_eq!(rest.len(), 2);
        assert!(rest[0].contains("mail.bodies"), "{rest:?}");
        let centres = [("a".to_owned(), 3), ("b".to_owned(), 2)].into();
        let all = create_keyspace("mail", &Replication::ByCentre(centres));
        assert!(all.contains("'NetworkTopologyStrategy', 'a': 3, 'b': 2"), "{all}");
    }

    #[test]
    fn what_is_wrong_is_said_in_a_line() {
        assert_eq!(problems(&whole()), []);
        assert_eq!(problems(&There::default()), [Problem::NoKeyspace]);
        let empty = There { keyspace: true, ..There::default() };
        assert_eq!(problems(&empty), [Problem::Empty]);
        let of = |version: Option<&str>| There { version: version.map(str::to_owned), ..whole() };
        assert_eq!(problems(&of(Some("0"))), [Problem::Older(0)]);
        assert_eq!(problems(&of(Some("7"))), [Problem::Newer(7)]);
        assert_eq!(problems(&of(Some("x"))), [Problem::NoVersion]);
        let mut odd = of(None);
        odd.tables.remove("late");
        odd.tables.get_mut("bodies").unwrap().insert("data".into(), "text".into());
        odd.tables.get_mut("states").unwrap().remove("mark");
        let said: Vec<String> = problems(&odd).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "the keyspace does not say its version",
                "table late is not there",
                "column states.mark is not there",
                "column bodies.data is text, not blob",
            ]
        );
        let making = create("k", &Replication::Simple(1), &odd);
        assert!(matches!(making, Err(Problem::NoColumn("states", "mark"))), "{making:?}");
    }

    #[test]
    fn only_what_is_older_is_brought_up() {
        assert_eq!(upgrade("k", &There::default()), Err(Problem::NoKeyspace));
        assert_eq!(upgrade("k", &whole()), Ok(Vec::new()));
        let of = |version: &str| There { version: Some(version.to_owned()), ..whole() };
        assert_eq!(upgrade("k", &of("9")), Err(Problem::Newer(9)));
        let mut first = of("1");
        first.tables.retain(|name, _| !name.starts_with("outgoing") && name != "removals");
        let steps = upgrade("k", &first).unwrap();
        assert_eq!(steps.len(), 5);
        assert!(steps[0].starts_with("CREATE TABLE IF NOT EXISTS k.removals "), "{steps:?}");
        assert!(steps[4].contains("k.facts") && steps[4].contains("'2'"), "{steps:?}");
    }
}
