//! `fsmtp-engine plan` as people run it, for as short as it goes.

use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use wire_tests::{PATIENCE, binary, engine};

fn entries(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn it_measures_says_what_is_needed_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let args = ["plan", "--rate", "50k/s", "--size", "20k", "--tls", "--seconds", "3"];
    let output = engine::run(&[&args[..], &["--data", &data, "--json"]].concat(), "").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for wanted in ["\"bottleneck\": \"", "\"suffices\": ", "\"assumed\": [", "\"processors\": "] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(!text.contains("\"messages\": 0,") && !text.contains("\"cpu_s\": 0.0,"), "{text}");
    assert_eq!(entries(folder.path()), Vec::<String>::new());
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    // The second one is a terminal that goes away.
    for signal in [Signal::INT, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = Command::new(binary::engine().unwrap())
            .args(["plan", "--rate", "1/s", "--size", "4k", "--seconds", "60", "--data"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        // Its engine has made its folder, or is about to.
        while entries(folder.path()).is_empty() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(!entries(folder.path()).is_empty(), "nothing begins");
        kill_process(Pid::from_child(&plan), signal).unwrap();
        let status = plan.wait().unwrap();
        assert!(Instant::now() < until, "it takes its time to end");
        assert_eq!(status.code(), Some(1));
        assert_eq!(entries(folder.path()), Vec::<String>::new());
    }
}
