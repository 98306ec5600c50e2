//! Tables of resolutions and of refused changes; memory and limits.

use super::*;
use crate::password::{Cost, Phc, hash};
use crate::seal::{AppWrap, RsaBits, UserKeys, Wrap, Wraps};

fn phc() -> Phc {
    hash(b"x", [0; 16], Cost { memory_kib: 8, passes: 1, lanes: 1 }).unwrap()
}

fn account(address: &str) -> Change {
    Change::AddAccount {
        address: address.into(),
        name: String::new(),
        lock: phc().into(),
        created: UnixTime::from_ms(1),
    }
}

fn alias(address: &str, targets: &[&str]) -> Change {
    let targets = targets.iter().map(|&target| target.into()).collect();
    Change::SetAlias { address: address.into(), targets }
}

fn domain(name: &str) -> Change {
    Change::AddDomain { domain: name.into() }
}

fn with(changes: &[Change]) -> Directory {
    changes
        .iter()
        .fold(Directory::default(), |directory, change| directory.apply(change.clone()).unwrap().0)
}

fn example() -> Directory {
    with(&[
        domain("Example.test"),
        domain("other.test"),
        domain("bücher.test"),
        domain("void.test"),
        account("alice@example.test"),
        account("Bob@EXAMPLE.test"),
        account("a+b@example.test"),
        account("zoë@bücher.test"),
        account("carol@other.test"),
        alias("sales@example.test", &["alice@example.test", "bob@example.test"]),
        alias("all@example.test", &["sales@example.test", "carol@other.test", "BOB@example.test"]),
        alias("postmaster@other.test", &["alice@example.test"]),
        alias("*@other.test", &["sales@example.test"]),
    ])
}

#[test]
fn addresses_resolve_by_the_table() {
    use Resolution::{Mailbox, Mailboxes, NoSuchUser, NotLocal};
    let directory = example();
    let one = |n| Mailbox(MailboxId(n));
    let many = |list: &[u64]| Mailboxes(list.iter().map(|&n| MailboxId(n)).collect());
    for (local, host, expected) in [
        ("alice", "example.test", one(1)),
        ("ALICE", "Example.TEST", one(1)),
        ("bob", "example.test", one(2)),
        ("alice+tag", "example.test", one(1)),
        ("alice+a+b", "example.test", one(1)),
        ("a+b", "example.test", one(3)),
        ("a+c", "example.test", NoSuchUser),
        ("+tag", "example.test", NoSuchUser),
        ("alice+", "example.test", one(1)),
        ("ZOË", "BÜCHER.test", one(4)),
        ("zoe", "bücher.test", NoSuchUser),
        ("sales", "example.test", many(&[1, 2])),
        ("sales+q3", "example.test", many(&[1, 2])),
        ("all", "example.test", many(&[1, 2, 5])),
        ("carol", "other.test", one(5)),
        ("anything", "other.test", many(&[1, 2])),
        ("any+thing", "other.test", many(&[1, 2])),
        ("*", "other.test", NoSuchUser),
        ("", "other.test", many(&[1, 2])),
        ("nobody", "example.test", NoSuchUser),
        ("alice", "elsewhere.test", NotLocal),
        ("alice", "", NotLocal),
        ("alice", "sub.example.test", NotLocal),
        // RFC 5321 §4.5.1
        ("PostMaster", "example.test", one(1)),
        ("postmaster", "other.test", one(1)),
        ("postmaster", "bücher.test", one(4)),
        ("postmaster", "void.test", NoSuchUser),
        ("postmaster", "elsewhere.test", NotLocal),
        ("postmaster", "", one(1)),
    ] {
        assert_eq!(directory.resolve(local, host), expected, "{local}@{host}");
    }
    let long = "l".repeat(LOCAL_BYTES_MAX + 1);
    assert_eq!(directory.resolve(&long, "example.test"), NoSuchUser);
    assert_eq!(directory.resolve(&long, "elsewhere.test"), NotLocal);
    assert_eq!(directory.resolve("alice", &"d".repeat(300)), NotLocal);
    assert_eq!(Directory::default().resolve("postmaster", ""), NoSuchUser);
}

#[test]
fn impossible_changes_are_refused_and_change_nothing() {
    use StoreError::{Exists, Invalid, NotFound};
    let directory = example();
    let is_exists: fn(&StoreError) -> bool = |error| matches!(error, Exists(_));
    let is_missing: fn(&StoreError) -> bool = |error| matches!(error, NotFound(_));
    let is_invalid: fn(&StoreError) -> bool = |error| matches!(error, Invalid(_));
    let name = |name: &str| Change::AddAccount {
        address: "new@example.test".into(),
        name: name.into(),
        lock: phc().into(),
        created: UnixTime::from_ms(1),
    };
    let remove = |address: &str| Change::RemoveAccount { address: address.into() };
    let remove_alias = |address: &str| Change::RemoveAlias { address: address.into() };
    let password = |address: &str| Change::SetLock {
        address: address.into(),
        was: Lock::Hash(phc()),
        lock: phc().into(),
    };
    for (change, expected) in [
        (domain("EXAMPLE.test"), is_exists),
        (domain("a_b"), is_invalid),
        (Change::RemoveDomain { domain: "example.test".into() }, is_invalid),
        (Change::RemoveDomain { domain: "nowhere.test".into() }, is_missing),
        (account("ALICE@example.test"), is_exists),
        (account("sales@example.test"), is_exists),
        (account("alice@nowhere.test"), is_missing),
        (account("*@example.test"), is_invalid),
        (account("a b@example.test"), is_invalid),
        (name("two\nlines"), is_invalid),
        (name(&"n".repeat(257)), is_invalid),
        (remove("nobody@example.test"), is_missing),
        (remove("sales@example.test"), is_missing),
        (remove("alice@example.test"), is_invalid),
        (password("nobody@example.test"), is_missing),
        (alias("alice@example.test", &["bob@example.test"]), is_exists),
        (alias("new@example.test", &[]), is_invalid),
        (alias("new@example.test", &["nobody@example.test"]), is_missing),
        (alias("new@example.test", &["new@example.test"]), is_missing),
        (alias("new@nowhere.test", &["alice@example.test"]), is_missing),
        (alias("sales@example.test", &["sales@example.test"]), is_invalid),
        (alias("sales@example.test", &["all@example.test"]), is_invalid),
        (remove_alias("nothing@example.test"), is_missing),
        (remove_alias("alice@example.test"), is_missing),
        (remove_alias("sales@example.test"), is_invalid),
    ] {
        let error = directory.apply(change.clone()).unwrap_err();
        assert!(expected(&error), "{change:?}: {error}");
    }
    assert_eq!(directory.accounts_count(), 5);
    assert_eq!(directory.next_mailbox(), MailboxId(6));
}

#[test]
fn a_lock_is_replaced_only_while_it_is_the_one_that_was_seen() {
    let mut number = 0;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            number += 1;
            *byte = ((number * 37) >> 3) as u8;
        }
    };
    let directory = example();
    let alice = MailboxId(1);
    let (keys, key) = UserKeys::generate(alice, RsaBits::B2048, &mut random).unwrap();
    let mut wraps = Wraps::default();
    wraps.put("one", Wrap::App(AppWrap::seal(&key, alice, &mut random).unwrap().0)).unwrap();
    let new = NewLock::Sealed { mailbox: alice, keys: Box::new(keys.clone()), wraps };
    let set = |directory: &Directory, address: &str, was: &Lock, lock: &NewLock| {
        let (address, was, lock) = (address.to_owned(), was.clone(), lock.clone());
        directory.apply(Change::SetLock { address, was, lock })
    };
    let before = directory.account("alice@example.test").unwrap().lock.clone();
    let other =
        Lock::Hash(hash(b"y", [0; 16], Cost { memory_kib: 8, passes: 1, lanes: 1 }).unwrap());
    assert!(matches!(set(&directory, "alice@example.test", &other, &new), Err(StoreError::Busy)));
    // Keys are made for one mailbox.
    assert!(matches!(set(&directory, "bob@example.test", &before, &new), Err(StoreError::Busy)));
    let (sealed, edits) = set(&directory, "ALICE@example.test", &before, &new).unwrap();
    let [Edit::PutAccount(_, Some(stored))] = &edits[..] else { panic!("{edits:?}") };
    assert_eq!(stored.encode(), keys.encode());
    assert!(matches!(set(&sealed, "alice@example.test", &before, &new), Err(StoreError::Busy)));
    let change = Change::SetLock { address: "alice@example.test".into(), was: before, lock: new };
    assert!(matches!(directory.plan(change), Ok(Edit::PutAccount(..))), "the same as applied");
    let account = sealed.account("alice@example.test").unwrap();
    assert_eq!(sealed.owner(alice), Some(account), "who seals for the mailbox sees it, too");
    let lock = account.lock.sealed().unwrap();
    for lock in [&account.lock, &other, &Lock::Unreadable, &Lock::Legacy(LegacyHash("x".into()))] {
        let bytes = lock.encode();
        assert_eq!(Lock::decode(&bytes).as_ref(), Ok(lock));
        assert!((0..bytes.len()).all(|end| Lock::decode(&bytes[..end]).is_err()));
        assert!(Lock::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(Lock::decode(&[&[2], &bytes[1..]].concat()).is_err(), "another version");
    }
    assert_eq!((lock.public.as_ref(), account.mailbox), (keys.public_der(), alice));

    let set = |was: &Wraps, wraps: &Wraps, address: &str| {
        let (address, was, wraps) = (address.to_owned(), was.clone(), wraps.clone());
        sealed.apply(Change::SetWraps { address, was, wraps })
    };
    let was = &lock.wraps;
    let mut more = was.clone();
    more.put("two", Wrap::App(AppWrap::seal(&key, alice, &mut random).unwrap().0)).unwrap();
    assert!(matches!(set(&more, was, "alice@example.test"), Err(StoreError::Busy)));
    assert!(matches!(set(was, &more, "bob@example.test"), Err(StoreError::Busy)), "no keys");
    assert!(matches!(set(was, &more, "eve@example.test"), Err(StoreError::NotFound(_))));
    let (after, edits) = set(was, &more, "alice@example.test").unwrap();
    assert!(matches!(&edits[..], [Edit::PutAccount(_, None)]), "the keys stay as they are");
    let now = after.owner(alice).unwrap().lock.sealed().unwrap();
    assert_eq!((&now.wraps, &now.public), (&more, &lock.public));
}

#[test]
fn what_was_added_can_be_removed_and_mailboxes_are_never_reused() {
    let mut directory = example();
    for change in [
        Change::RemoveAlias { address: "*@other.test".into() },
        Change::RemoveAlias { address: "all@example.test".into() },
        Change::RemoveAlias { address: "postmaster@other.test".into() },
        Change::RemoveAccount { address: "Carol@other.test".into() },
        Change::RemoveDomain { domain: "other.test".into() },
        Change::RemoveAlias { address: "sales@example.test".into() },
        Change::RemoveAccount { address: "alice@example.test".into() },
        account("alice@example.test"),
    ] {
        directory = directory.apply(change).unwrap().0;
    }
    assert_eq!(directory.resolve("carol", "other.test"), Resolution::NotLocal);
    assert_eq!(directory.resolve("alice", "example.test"), Resolution::Mailbox(MailboxId(6)));
    // The oldest that is left stands in for postmaster.
    assert_eq!(directory.resolve("postmaster", "example.test"), Resolution::Mailbox(MailboxId(2)));
    let counts: Vec<_> = directory
        .domains()
        .map(|(name, counts)| (name.to_owned(), counts.accounts_count, counts.aliases_count))
        .collect();
    let expected = [("bücher.test", 1, 0), ("example.test", 3, 0), ("void.test", 0, 0)];
    assert_eq!(counts, expected.map(|(name, accounts, aliases)| (name.into(), accounts, aliases)));
}

#[test]
fn lists_are_sorted_and_can_be_of_one_domain() {
    let directory = example();
    let addresses = |domain| -> Vec<String> {
        directory.accounts(domain).iter().map(|account| account.address.clone()).collect()
    };
    assert_eq!(
        addresses(Some("EXAMPLE.test")),
        ["a+b@example.test", "alice@example.test", "bob@example.test"]
    );
    assert_eq!(addresses(None).len(), 5);
    let aliases: Vec<_> = directory.aliases(Some("other.test"));
    assert_eq!(aliases.len(), 2);
    assert_eq!(aliases[0].address, "*@other.test");
    assert_eq!(directory.account("BOB@example.test").unwrap().mailbox, MailboxId(2));
    assert!(directory.account("sales@example.test").is_none());
    assert_eq!(directory.alias("SALES@example.test").unwrap().targets.len(), 2);
}

#[test]
fn aliases_have_limits() {
    let mut directory = with(&[domain("x"), account("end@x"), alias("a1@x", &["end@x"])]);
    for depth in 2..=ALIAS_DEPTH_MAX {
        let below = format!("a{}@x", depth - 1);
        directory = directory.apply(alias(&format!("a{depth}@x"), &[&below])).unwrap().0;
    }
    let deepest = format!("a{ALIAS_DEPTH_MAX}");
    assert_eq!(directory.resolve(&deepest, "x"), Resolution::Mailbox(MailboxId(1)));
    let too_deep = alias("deeper@x", &[&format!("{deepest}@x")]);
    assert!(matches!(directory.apply(too_deep), Err(StoreError::Invalid(_))));
    // Nor can the chain grow from below.
    let directory = directory.apply(alias("below@x", &["end@x"])).unwrap().0;
    let grown = directory.apply(alias("a1@x", &["below@x"]));
    assert!(matches!(grown, Err(StoreError::Invalid(_))));

    let many: Vec<String> = (0..=ALIAS_TARGETS_MAX).map(|n| format!("t{n}@x")).collect();
    let mut directory = directory;
    for address in &many {
        directory = directory.apply(account(address)).unwrap().0;
    }
    let all: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(directory.apply(alias("l@x", &all)), Err(StoreError::Invalid(_))));
    let full = &all[..ALIAS_TARGETS_MAX];
    for list in 0..11 {
        directory = directory.apply(alias(&format!("list{list}@x"), full)).unwrap().0;
    }
    let lists: Vec<String> = (0..11).map(|n| format!("list{n}@x")).collect();
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    // Nine lists of a hundred are 909 visits, ten are 1010.
    let nine = directory.apply(alias("wide@x", &lists[..9])).unwrap().0;
    assert!(
        matches!(nine.resolve("wide", "x"), Resolution::Mailboxes(found) if found.len() == 100)
    );
    assert!(matches!(directory.apply(alias("wide@x", &lists[..10])), Err(StoreError::Invalid(_))));
}

#[test]
fn the_number_of_entries_is_limited() {
    let limits = Limits { accounts_max: 2, aliases_max: 1, domains_max: 1 };
    let domains = ["x".to_owned()];
    let mut directory = Directory::restore(limits, MailboxId(1), domains, [], []);
    assert!(matches!(directory.apply(domain("y")), Err(StoreError::Invalid(_))));
    for change in [account("a@x"), account("b@x"), alias("c@x", &["a@x"])] {
        directory = directory.apply(change).unwrap().0;
    }
    assert!(matches!(directory.apply(account("d@x")), Err(StoreError::Invalid(_))));
    assert!(matches!(directory.apply(alias("d@x", &["a@x"])), Err(StoreError::Invalid(_))));
    assert!(directory.apply(alias("c@x", &["b@x"])).is_ok());
}

#[test]
fn a_snapshot_does_not_change_under_its_holder() {
    let before = example();
    let after =
        before.apply(Change::RemoveAccount { address: "zoë@bücher.test".into() }).unwrap().0;
    assert!(before.account("zoë@bücher.test").is_some());
    assert!(after.account("zoë@bücher.test").is_none());
}

#[test]
fn stored_rows_make_the_same_directory() {
    let directory = example();
    let restored = Directory::restore(
        Limits::default(),
        directory.next_mailbox(),
        directory.domains().map(|(name, _)| name.to_owned()),
        directory.accounts(None).iter().map(|account| (**account).clone()),
        directory.aliases(None).iter().map(|alias| (**alias).clone()),
    );
    assert!(directory.domains().eq(restored.domains()));
    assert_eq!(directory.accounts(None), restored.accounts(None));
    assert_eq!(directory.aliases(None), restored.aliases(None));
    assert_eq!(directory.next_mailbox(), restored.next_mailbox());
}
