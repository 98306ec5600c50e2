//! Records of DMARC from anywhere: what is read keeps its limits, and what a record wants is the
//! same when it is read again.
#![no_main]

use fsmtp_proto::dmarc::record::{RECORD_BYTES_MAX, Record, URIS_MAX, is_record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(record) = Record::parse(text) else { return };
    assert!(is_record(text) && text.len() <= RECORD_BYTES_MAX && record.percent <= 100);
    for uris in [&record.aggregate, &record.failure] {
        assert!(uris.len() <= URIS_MAX);
        for uri in uris {
            assert!(uri.text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
            if let Some(mailbox) = uri.mailbox() {
                assert!(mailbox.contains('@') && !mailbox.chars().any(char::is_control));
            }
        }
    }
    let spaced = [text, b" ; x-unknown=1 ;"].concat();
    if spaced.len() <= RECORD_BYTES_MAX {
        assert_eq!(Record::parse(&spaced), Ok(record));
    }
});
