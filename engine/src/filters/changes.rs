//! What filters want changed of a message, and its header section with those changes made.
//!
//! The section of mail from outside is held back until the message is over, so fields can be added,
//! changed and removed; see [`Held`]. That of a user's mail has been stored and signed by then:
//! fields are put in front of it, and that is all.
//!
//! Names and values come from a filter, so nothing of them is believed: a field that is none is
//! left out, and a line end in a value never begins another field.

use std::borrow::Cow;

use fsmtp_proto::dkim::header::{Field, HeaderError, fields};

/// RFC 5322 §2.1.1: the longest line, without its end.
const LINE_BYTES_MAX: usize = 998;

/// A change of the header section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FieldChange {
    /// Another field behind all others.
    Add(Box<[u8]>),
    /// Another one at this place, counted from 0 with our `Received` as the first.
    Insert(u32, Box<[u8]>),
    /// The field of this name with this index, from 1, is replaced by this line; without one it
    /// goes. Added when there is no such field.
    Set(Box<[u8]>, u32, Option<Box<[u8]>>),
    /// All fields of this name go.
    Remove(Box<[u8]>),
}

/// What is to be changed of one message.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Changes {
    /// Of its header section, in this order.
    pub(crate) fields: Vec<FieldChange>,
    /// Recipients more and less, without brackets.
    pub(crate) recipients: Vec<(Recipient, String)>,
    /// Another sender, without brackets.
    pub(crate) sender: Option<String>,
}

/// The most bytes of new fields of one message, all filters together; arbitrary, and what a record
/// of the store has room for beside the rest.
const NEW_BYTES_MAX: usize = 32 * 1024;

impl Changes {
    /// Drops what is beyond the limit.
    pub(crate) fn bound(&mut self) {
        let mut sum = 0;
        self.fields.retain(|change| {
            sum += match change {
                FieldChange::Add(line) | FieldChange::Insert(_, line) => line.len(),
                FieldChange::Set(_, _, line) => line.as_ref().map_or(0, |line| line.len()),
                FieldChange::Remove(_) => 0,
            };
            sum <= NEW_BYTES_MAX
        });
    }
}

/// What becomes of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Recipient {
    /// It gets the message as well.
    Added,
    /// It does not.
    Deleted,
}

/// A field as it stands in a header section, its CRLF included; none when name or value cannot be
/// one. `spaced`: the value has the white space in front of it with it.
pub(crate) fn line(name: &[u8], value: &[u8], spaced: bool) -> Option<Box<[u8]>> {
    // RFC 5322 §2.2
    let named =
        !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':');
    let mut out = [name, if spaced { b":" } else { b": " }].concat();
    let mut rest = value;
    let mut first = true;
    while first || !rest.is_empty() {
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(end);
        rest = behind.strip_prefix(b"\r\n").or_else(|| behind.get(1..)).unwrap_or_default();
        // RFC 5322 §2.2.3: a line that goes on with a field begins with white space, and is not
        // white space alone.
        if !first {
            if text.trim_ascii().is_empty() {
                continue;
            }
            if !text.starts_with(b" ") && !text.starts_with(b"\t") {
                out.push(b'\t');
            }
        }
        out.extend(text.iter().copied().filter(|byte| *byte != 0));
        out.extend_from_slice(b"\r\n");
        first = false;
    }
    let mut lines = out.split(|byte| *byte == b'\n');
    let fits = lines.all(|line| line.len() <= LINE_BYTES_MAX + 1);
    (named && fits).then(|| out.into())
}

/// The front of a message's header: what is put before it, and all of it when it was held back.
pub(crate) struct Held<'s> {
    /// The section without the empty line behind it; none when it has been stored already.
    pub(crate) section: Option<&'s [u8]>,
    /// Whether the empty line was there.
    pub(crate) is_over: bool,
}

impl Held<'_> {
    /// The bytes that stand in front of what was stored.
    ///
    /// # Errors
    /// When the section has more fields than can be worked on.
    pub(crate) fn with(&self, changes: &[FieldChange]) -> Result<Vec<u8>, HeaderError> {
        let Some(section) = self.section else { return Ok(in_front(changes)) };
        let mut out = section.to_vec();
        if !changes.is_empty() {
            let found = fields(section)?;
            let whole = |field: &Field<'_>| [field.bytes(), b"\r\n"].concat().into();
            let mut lines: Vec<Cow<'_, [u8]>> = found.iter().map(whole).collect();
            changes.iter().for_each(|change| apply(&mut lines, change));
            out = lines.concat();
        }
        if self.is_over {
            out.extend_from_slice(b"\r\n");
        }
        Ok(out)
    }
}

/// The new fields, in front of a section that cannot be changed any more.
fn in_front(changes: &[FieldChange]) -> Vec<u8> {
    let new = |change: &FieldChange| match change {
        FieldChange::Add(line) | FieldChange::Insert(_, line) => Some(line.clone()),
        FieldChange::Set(..) | FieldChange::Remove(_) => None,
    };
    changes.iter().filter_map(new).collect::<Vec<_>>().concat()
}

fn apply<'l>(lines: &mut Vec<Cow<'l, [u8]>>, change: &'l FieldChange) {
    let is = |line: &[u8], name: &[u8]| {
        let found = Field::new(line.strip_suffix(b"\r\n").unwrap_or(line)).name();
        // What is no field has no name.
        !found.is_empty() && found.eq_ignore_ascii_case(name)
    };
    match change {
        FieldChange::Add(line) => lines.push(Cow::Borrowed(line)),
        FieldChange::Insert(index, line) => {
            // Ours stands in front of all.
            let at = usize::try_from(index.saturating_sub(1)).unwrap_or(usize::MAX);
            lines.insert(at.min(lines.len()), Cow::Borrowed(line));
        }
        FieldChange::Set(name, index, line) => {
            let nth = usize::try_from(index.saturating_sub(1)).unwrap_or(usize::MAX);
            let mut found = (0..lines.len()).filter(|at| is(&lines[*at], name));
            match (found.nth(nth), line) {
                (Some(at), Some(line)) => lines[at] = Cow::Borrowed(line),
                (Some(at), None) => drop(lines.remove(at)),
                (None, Some(line)) => lines.push(Cow::Borrowed(line)),
                (None, None) => {}
            }
        }
        FieldChange::Remove(name) => lines.retain(|line| !is(line, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(name: &str, value: &str) -> Option<String> {
        line(name.as_bytes(), value.as_bytes(), false)
            .map(|line| String::from_utf8(line.into()).unwrap())
    }

    #[test]
    fn a_field_is_one_field_whatever_its_value() {
        for (name, value, field) in [
            ("X", "a", Some("X: a\r\n")),
            ("X", "", Some("X: \r\n")),
            ("X", "a\n b\r\n\tc", Some("X: a\r\n b\r\n\tc\r\n")),
            ("X", "a\nBcc: b\r\n\r\nbody\r\rc", Some("X: a\r\n\tBcc: b\r\n\tbody\r\n\tc\r\n")),
            ("X", "a\0b\n", Some("X: ab\r\n")),
            ("", "a", None),
            ("X:Y", "a", None),
            ("X Y", "a", None),
            ("X\r\nY", "a", None),
            ("Ü", "a", None),
        ] {
            assert_eq!(text(name, value).as_deref(), field, "{name:?}, {value:?}");
        }
        let fits = "a".repeat(LINE_BYTES_MAX - 3);
        assert!(text("X", &fits).is_some() && text("X", &format!("{fits}a")).is_none());
        assert_eq!(line(b"X", b"\ta", true).as_deref(), Some(&b"X:\ta\r\n"[..]));
    }

    fn changed(section: &str, changes: &[FieldChange]) -> String {
        let held = Held { section: Some(section.as_bytes()), is_over: true };
        String::from_utf8(held.with(changes).unwrap()).unwrap()
    }

    fn new(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn changes_are_made_in_their_order() {
        use FieldChange::{Add, Insert, Remove, Set};
        let section = "A: 1\r\nB: 2\r\n b\r\na : 3\r\n";
        for (changes, after) in [
            (vec![], "A: 1\r\nB: 2\r\n b\r\na : 3\r\n\r\n"),
            (vec![Add(new("C: 4\r\n"))], "A: 1\r\nB: 2\r\n b\r\na : 3\r\nC: 4\r\n\r\n"),
            (
                vec![Insert(0, new("C: 4\r\n")), Insert(1, new("D: 5\r\n"))],
                "D: 5\r\nC: 4\r\nA: 1\r\nB: 2\r\n b\r\na : 3\r\n\r\n",
            ),
            (vec![Insert(2, new("C: 4\r\n"))], "A: 1\r\nC: 4\r\nB: 2\r\n b\r\na : 3\r\n\r\n"),
            (vec![Insert(u32::MAX, new("C:\r\n"))], "A: 1\r\nB: 2\r\n b\r\na : 3\r\nC:\r\n\r\n"),
            (vec![Set(new("a"), 2, None)], "A: 1\r\nB: 2\r\n b\r\n\r\n"),
            (vec![Set(new("A"), 0, Some(new("A: 9\r\n")))], "A: 9\r\nB: 2\r\n b\r\na : 3\r\n\r\n"),
            (
                vec![Set(new("E"), 1, Some(new("E: 9\r\n"))), Set(new("F"), 1, None)],
                "A: 1\r\nB: 2\r\n b\r\na : 3\r\nE: 9\r\n\r\n",
            ),
            (vec![Remove(new("A")), Remove(new(""))], "B: 2\r\n b\r\n\r\n"),
        ] {
            assert_eq!(changed(section, &changes), after, "{changes:?}");
        }
    }

    #[test]
    fn before_what_is_stored_already_only_new_fields_are_put() {
        let changes = [
            FieldChange::Add(new("A: 1\r\n")),
            FieldChange::Set(new("B"), 1, Some(new("B: 2\r\n"))),
            FieldChange::Remove(new("B")),
            FieldChange::Insert(7, new("C: 3\r\n")),
        ];
        let held = Held { section: None, is_over: true };
        assert_eq!(held.with(&changes).unwrap(), b"A: 1\r\nC: 3\r\n");
    }

    proptest! {
        #[test]
        fn without_changes_every_byte_stays(
            section in "([A-Za-z]{0,3}:? ?[a-z:]{0,3}(\r\n)?[ \t]?){0,6}",
            is_over in any::<bool>(),
        ) {
            let section = if is_over && !section.is_empty() {
                format!("{}\r\n", section.trim_end_matches("\r\n"))
            } else {
                section
            };
            let held = Held { section: Some(section.as_bytes()), is_over };
            let end = if is_over { "\r\n" } else { "" };
            prop_assert_eq!(held.with(&[]).unwrap(), format!("{section}{end}").into_bytes());
        }

        #[test]
        fn no_value_breaks_out_of_its_field(
            value in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Some(line) = line(b"X", &value, false) {
                prop_assert!(line.starts_with(b"X: ") && line.ends_with(b"\r\n"));
                let inner = &line[..line.len() - 2];
                for (at, byte) in inner.iter().enumerate() {
                    let folds = inner[at..].starts_with(b"\r\n")
                        && matches!(inner.get(at + 2), Some(b' ' | b'\t'));
                    prop_assert!(*byte != b'\r' || folds);
                    prop_assert!(*byte != b'\n' || inner[..at].ends_with(b"\r"));
                    prop_assert!(*byte != 0);
                }
            }
        }
    }
}
