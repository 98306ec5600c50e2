//! The sections about filters of others.

use core::net::SocketAddr;
use core::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::file::File;
use crate::filters::{self, Plan};

/// The most filters; arbitrary, each is asked about each message.
const FILTERS_MAX: usize = 16;

/// A filter that is asked about mail that comes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Filter {
    /// What logs call it. When absent: its address.
    pub(super) name: Option<String>,
    /// How it is asked: `milter` or `rspamd`.
    pub(super) protocol: FilterProtocol,
    /// Where it listens, like `127.0.0.1:11333` or `[::1]:8891`. What is sent there goes in clear:
    /// name an address of this host, or one that nobody else can listen to.
    pub(super) address: String,
    /// What becomes of mail that it cannot be asked about: `accept`; `defer`: the sender hears 451;
    /// `junk`: it is taken as junk.
    pub(super) when_away: WhenAway,
    /// How long a connection to it may take to come about, in seconds. One that cannot be reached
    /// is left alone for ten seconds.
    #[schemars(range(min = 1, max = 60))]
    pub(super) connect_timeout_s: u32,
    /// How long it may think about each command, in seconds; `milter` only.
    #[schemars(range(min = 1, max = 300))]
    pub(super) command_timeout_s: u32,
    /// How long it may think about a whole message, in seconds. A milter that says that it takes
    /// longer has four times as long.
    #[schemars(range(min = 1, max = 300))]
    pub(super) message_timeout_s: u32,
    /// The longest message that it is asked about, in bytes; `rspamd` only, which needs it whole.
    /// Longer ones pass it by.
    #[schemars(range(min = 65_536, max = 33_554_432))]
    pub(super) message_bytes_max: u32,
    /// Whether it is asked about mail of users who have signed in, too.
    pub(super) users: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            name: None,
            protocol: FilterProtocol::Milter,
            address: String::new(),
            when_away: WhenAway::Accept,
            connect_timeout_s: 5,
            command_timeout_s: 30,
            message_timeout_s: 60,
            message_bytes_max: 1_048_576,
            users: false,
        }
    }
}

/// How a filter is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FilterProtocol {
    /// The milter protocol.
    Milter,
    /// HTTP, as rspamd has it.
    Rspamd,
}

/// What becomes of mail that a filter cannot be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum WhenAway {
    /// It is taken.
    Accept,
    /// The sender shall come again.
    Defer,
    /// It is taken as junk.
    Junk,
}

/// Checks the sections; fills in what they leave to others.
pub(super) fn check(checker: &mut Checker<'_>, file: &mut File, dev: bool) -> Vec<Plan> {
    if file.filter.len() > FILTERS_MAX {
        checker.problem(&["filter"], format!("more than {FILTERS_MAX} filters"));
    }
    let mut plans: Vec<Plan> = Vec::new();
    for (index, raw) in file.filter.iter_mut().enumerate() {
        let place = index.to_string();
        let name = raw.name.get_or_insert_with(|| raw.address.clone());
        if plans.iter().any(|plan| *plan.name == **name) {
            checker.problem(&["filter", &place, "name"], format!("`{name}` stands here twice"));
        }
        let Ok(address) = raw.address.parse::<SocketAddr>() else {
            let what = format!("`{}` is not an address and a port, like [::1]:11333", raw.address);
            checker.problem(&["filter", &place, "address"], what);
            continue;
        };
        if !address.ip().is_loopback() && dev {
            let what = "with `--dev` mail goes to loopback addresses only";
            checker.problem(&["filter", &place, "address"], what);
        } else if !address.ip().is_loopback() {
            checker.warning(format!("filter `{name}`: mail goes to {address} in clear"));
        }
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        plans.push(Plan {
            name: name.as_str().into(),
            protocol: match raw.protocol {
                FilterProtocol::Milter => filters::Protocol::Milter,
                FilterProtocol::Rspamd => filters::Protocol::Rspamd,
            },
            address,
            connect_timeout: seconds(raw.connect_timeout_s),
            command_timeout: seconds(raw.command_timeout_s),
            message_timeout: seconds(raw.message_timeout_s),
            when_away: match raw.when_away {
                WhenAway::Accept => filters::WhenAway::Accept,
                WhenAway::Defer => filters::WhenAway::Defer,
                WhenAway::Junk => filters::WhenAway::Junk,
            },
            message_bytes_max: usize::try_from(raw.message_bytes_max).unwrap_or(usize::MAX),
            users: raw.users,
        });
    }
    plans
}
