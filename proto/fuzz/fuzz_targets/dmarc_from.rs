//! From fields from anywhere: each domain that is read can be asked for, and is the one that it
//! says, however the field is folded.
#![no_main]

use fsmtp_proto::dkim::header::Field;
use fsmtp_proto::dmarc::from::{DOMAINS_MAX, authors, canonical};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let read = |value: &[u8]| authors(&[Field::new(&[b"From:", value].concat())]);
    let Ok(domains) = read(value) else { return };
    assert!((1..=DOMAINS_MAX).contains(&domains.len()));
    for domain in &domains {
        assert!(domain.is_ascii() && domain.len() <= 253);
        assert_eq!(canonical(domain).as_ref(), Some(domain));
    }
    let folded = [b"\r\n ", value, b"\r\n\t"].concat();
    if folded.len() < 16 * 1024 {
        assert_eq!(read(&folded), Ok(domains));
    }
});
