//! Organisational domains by the list of public suffixes, against the list's own test, which lies
//! beside the repository where it is; else that is said, and nothing fails.

use fsmtp_proto::dmarc::from::canonical;
use fsmtp_proto::dmarc::walk::registered;

const SUITE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/vectors/dmarc-publicsuffix/tests/test_psl.txt"
);

/// What stands between quotes; none for `null`.
fn argument(text: &str) -> Option<&str> {
    let text = text.trim();
    assert!(text == "null" || text.starts_with('\''), "{text}");
    text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''))
}

#[test]
fn organisations_are_those_of_the_lists_own_test() {
    let Ok(suite) = std::fs::read_to_string(SUITE) else {
        println!("skipped: the suite is not there");
        return;
    };
    let (mut count, mut wrong) = (0, Vec::new());
    for line in suite.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let Some(call) = line.trim().strip_prefix("checkPublicSuffix(") else { continue };
        let (domain, due) = call.split_once(',').expect("two arguments");
        let (domain, due) = (argument(domain), argument(due.trim_end_matches([')', ';'])));
        let domain = domain.and_then(canonical);
        let found = domain.as_deref().and_then(registered);
        if found != due.and_then(canonical).as_deref() {
            wrong.push(format!("{line} {found:?}"));
        }
        count += 1;
    }
    assert!(count > 70, "{count}");
    assert_eq!(wrong, [""; 0]);
    println!("{count} organisations");
}
