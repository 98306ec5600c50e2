//! `Authentication-Results`: what strangers have chosen ends no field and adds no result; and those
//! of other hosts are read whatever they hold.
#![no_main]

use fsmtp_proto::results::{Results, says};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut field = Results::new("Authentication-Results", "mx.a.example");
    field.method("spf", "fail").comment(&text).property("smtp.mailfrom", &text);
    field.method("dmarc", "none").property("header.from", &text);
    let out = String::from_utf8(field.finish()).expect("text");
    let lines = out.strip_suffix("\r\n").expect("an end").split("\r\n");
    assert!(lines.skip(1).all(|line| line.starts_with('\t') && !line.contains(['\r', '\n'])));
    let (_, value) = out.split_once(':').expect("a name");
    assert!(says(value, "spf", "fail") && says(value, "dmarc", "none"));
    for method in ["spf", "dmarc", "dkim"] {
        assert!(!says(value, method, "pass"));
    }
    let _ = says(&text, "dmarc", "pass");
});
