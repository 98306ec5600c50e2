//! What every back end must do with what other nodes of a cluster have changed.

use std::sync::Arc;

use fsmtp_rt::UnixTime;

use super::{Factory, ShardLog, cheap_phc, counting, deliver, ids, must, sealed};
use crate::directory::{Account, Alias, Change, Edit, Lock, Resolution, Sealed};
use crate::mailbox::{Mailboxes, Registry, wait};
use crate::seal::{AppWrap, RsaBits, UserKeys, Wrap, Wraps};
use crate::{MailboxId, StoreError};

const SEALED: MailboxId = MailboxId(40);
const PLAIN: MailboxId = MailboxId(7);

pub(super) fn run<F: Factory>(factory: &mut F) {
    what_others_change_is_stored_whole(factory);
    more_than_there_is_room_for_at_first(factory);
}

fn account(address: &str, mailbox: MailboxId, lock: Lock) -> Arc<Account> {
    let created = UnixTime::from_ms(5);
    Arc::new(Account { mailbox, address: address.into(), name: "A Name".into(), lock, created })
}

fn plain(address: &str, mailbox: MailboxId) -> Edit {
    Edit::PutAccount(account(address, mailbox, Lock::Hash(cheap_phc())), None)
}

fn take(store: &impl Mailboxes, edits: &[Edit]) {
    must(wait(store.change(Change::Replicate(edits.to_vec()))));
}

fn what_others_change_is_stored_whole<F: Factory>(factory: &mut F) {
    let store = factory.fresh();
    let (keys, key) = sealed(UserKeys::generate(SEALED, RsaBits::B2048, &mut counting()));
    let wrap = Wrap::App(sealed(AppWrap::seal(&key, SEALED, &mut counting())).0);
    let mut wraps = Wraps::default();
    sealed(wraps.put("one", wrap));
    let lock = |wraps: &Wraps| {
        let (public, wraps) = (keys.public_der().into(), wraps.clone());
        Lock::Sealed(Box::new(Sealed { public, wraps }))
    };
    let put = |wraps: &Wraps, keys: Option<&UserKeys>| {
        let keys = keys.map(|keys| Box::new(keys.clone()));
        Edit::PutAccount(account("sealed@x.test", SEALED, lock(wraps)), keys)
    };
    let alias = Alias { address: "all@y.test".into(), targets: vec!["plain@x.test".into()] };
    // An alias before its target and accounts before their domain.
    let edits = [
        Edit::PutAlias(Arc::new(alias)),
        put(&wraps, Some(&keys)),
        plain("plain@x.test", PLAIN),
        Edit::NextMailbox(MailboxId(90)),
    ];
    let without = vec![Edit::PutDomain("z.test".into()), put(&wraps, None)];
    let refused = wait(store.change(Change::Replicate(without)));
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "a sealed account without its keys");
    assert!(!store.directory().serves("z.test"), "all or nothing");
    take(&store, &edits);
    let before = store.directory();
    take(&store, &edits);
    assert_eq!(before.accounts(None), store.directory().accounts(None));
    let store = factory.crash(store);
    let check = |store: &F::Store| {
        let directory = store.directory();
        assert_eq!(directory.resolve("all", "y.test"), Resolution::Mailbox(PLAIN));
        assert_eq!(directory.resolve("sealed", "x.test"), Resolution::Mailbox(SEALED));
        assert_eq!(directory.next_mailbox(), MailboxId(90));
        assert!(must(wait(store.user_keys(SEALED))) == keys);
    };
    check(&store);
    // Other wraps, and nothing said of the keys: they stay.
    take(&store, &[put(&Wraps::default(), None)]);
    let store = factory.restart(store);
    check(&store);
    let now = store.directory();
    assert_eq!(now.account("sealed@x.test").map(|a| a.lock.clone()), Some(lock(&Wraps::default())));

    let mut log = ShardLog::new(0);
    deliver(&store, &log.message(&[PLAIN, SEALED], 100, 0));
    take(
        &store,
        &[
            Edit::DropAlias("all@y.test".into()),
            Edit::DropDomain("y.test".into()),
            Edit::DropAccount { address: "plain@x.test".into(), mailbox: PLAIN },
            Edit::DropAccount { address: "nobody@x.test".into(), mailbox: MailboxId(3) },
            // Not sealed any more.
            plain("sealed@x.test", SEALED),
        ],
    );
    let store = factory.restart(store);
    let directory = store.directory();
    assert_eq!(directory.resolve("all", "y.test"), Resolution::NotLocal);
    assert_eq!(directory.resolve("plain", "x.test"), Resolution::NoSuchUser);
    assert!(matches!(wait(store.open(PLAIN)), Err(StoreError::NotFound(_))));
    assert!(matches!(wait(store.user_keys(SEALED)), Err(StoreError::NotFound(_))));
    assert_eq!(ids(&store, SEALED).len(), 1, "its mail stays");
    assert_eq!(directory.next_mailbox(), MailboxId(90));
}

/// A node that joins takes many at once.
fn more_than_there_is_room_for_at_first<F: Factory>(factory: &mut F) {
    const COUNT: u64 = 1200;
    let store = factory.fresh();
    let all: Vec<Edit> =
        (1..=COUNT).map(|n| plain(&format!("user{n}@x.test"), MailboxId(n))).collect();
    take(&store, &all);
    let store = factory.crash(store);
    let directory = store.directory();
    assert_eq!(directory.accounts_count(), 1200);
    let readable = |account: &Arc<Account>| account.lock == Lock::Hash(cheap_phc());
    assert!(directory.accounts(None).iter().all(readable));
    assert_eq!(directory.next_mailbox(), MailboxId(COUNT + 1));
}
