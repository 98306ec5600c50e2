//! Addresses from anywhere: what is accepted is bounded, free of controls, and reads back the same.
#![no_main]

use fsmtp_proto::smtp::address::{
    DOMAIN_BYTES_MAX, Domain, LOCAL_PART_BYTES_MAX, Mailbox, PATH_BYTES_MAX, Path, parse_path,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok((path, rest)) = parse_path(text) {
        let address = path.text();
        assert!(address.len() + 2 <= PATH_BYTES_MAX);
        assert!(!address.chars().any(char::is_control));
        assert!(rest.is_empty() || rest.starts_with(' '));
        let bracketed = format!("<{address}>");
        assert_eq!(parse_path(&bracketed), Ok((path, "")));
        if let Path::Mailbox(mailbox) = path {
            assert_eq!(Mailbox::parse(address), Ok(mailbox));
            assert!(mailbox.local_part().text().len() <= LOCAL_PART_BYTES_MAX);
            assert!(mailbox.local_part().unquoted().len() <= LOCAL_PART_BYTES_MAX);
        }
    }
    if let Ok(Domain::Name(name)) = Domain::parse(text) {
        assert!(name == text && name.len() <= DOMAIN_BYTES_MAX);
        assert!(name.split('.').all(|label| !label.is_empty() && label.len() <= 63));
    }
});
