//! What must be known of a run to compare it with another: the plan in words, and the machine.
//!
//! For the JSON document and the HTML report. What a file of the system does not tell is "unknown".

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;

use crate::send::plan::{Between, Plan};
use crate::tls::Mode;

/// What decides how much work a run is, by the names of the options. Two runs in which these are
/// the same can be compared.
pub(crate) fn plan(plan: &Plan) -> Vec<(&'static str, String)> {
    let o = &plan.options;
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    let load = match &o.find_max {
        Some(goal) => format!("the highest rate with {goal}"),
        None => plan.amount.to_string(),
    };
    let size = match &o.corpus {
        Some(folder) => format!("files of {}", folder.display()),
        None => o.size.to_string(),
    };
    let each = o.messages_per_connection;
    let tls = match o.tls.tls {
        Mode::None => "none".to_owned(),
        mode => {
            format!("{} {}", name(mode.to_possible_value()), name(o.tls.group.to_possible_value()))
        }
    };
    let content = if o.bdat { "bdat" } else { "data" };
    vec![
        ("load", load),
        ("protocol", if o.lmtp { "lmtp" } else { "smtp" }.to_owned()),
        ("arrivals", name(o.arrivals.to_possible_value())),
        ("connections", o.connections.to_string()),
        ("messages_per_connection", each.map_or_else(|| "all".to_owned(), |n| n.to_string())),
        ("size", size),
        ("recipients", o.recipients.to_string()),
        ("mailboxes", o.mailboxes.to_string()),
        ("domains", o.domains.as_ref().map_or(1, |domains| domains.0.len()).to_string()),
        ("pipelining", name(o.pipelining.to_possible_value())),
        ("content", content.to_owned()),
        ("between", if o.between == Between::Rset { "rset" } else { "none" }.to_owned()),
        ("tls", tls),
        ("resume", o.resume.to_string()),
        ("auth", if plan.users.is_empty() { "none" } else { "plain" }.to_owned()),
        ("sources", o.sources.to_string()),
        ("cores", plan.cores_of_all().to_string()),
        ("hosts", o.agents.len().max(1).to_string()),
    ]
}

/// The machine that the generator ran on.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) processors: usize,
    /// Of the report, in UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo");
        let model = model.lines().find_map(|line| line.strip_prefix("model name"));
        let known = |text: &str| match text.trim_matches([' ', '\t', '\n', ':']) {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            kernel: known(&read("/proc/sys/kernel/osrelease")),
            cpu: known(model.unwrap_or_default()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            date: date(since.as_secs()),
        }
    }
}

/// Seconds of the epoch as RFC 3339 has it.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days of the civil calendar, counted from a year that begins in March: the leap day is last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let year = year + era * 400;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn this_machine_has_a_kernel_and_processors() {
        let machine = Machine::this();
        assert!(!machine.kernel.is_empty() && !machine.cpu.is_empty() && machine.processors > 0);
    }
}
