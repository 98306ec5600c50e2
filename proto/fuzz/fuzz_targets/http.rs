//! Replies over HTTP from anywhere: more bytes never change what was read, and no body is longer
//! than asked for. The first byte is where the reply is cut.
#![no_main]

use fsmtp_proto::http::head;
use libfuzzer_sys::fuzz_target;

const BODY_BYTES_MAX: usize = 1000;

fuzz_target!(|data: &[u8]| {
    let [cut, reply @ ..] = data else { return };
    let (front, _) = reply.split_at(reply.len().min(usize::from(*cut) * 4));
    let whole = head(reply, false);
    if let Ok(Some(early)) = head(front, false) {
        let Ok(Some(late)) = &whole else { panic!("a head is taken back") };
        assert_eq!(early.status, late.status);
        if let Ok(Some(body)) = early.body(false, BODY_BYTES_MAX) {
            assert_eq!(late.body(false, BODY_BYTES_MAX), Ok(Some(body)));
        }
    }
    if let Ok(Some(head)) = head(reply, true) {
        if let Ok(body) = head.body(true, BODY_BYTES_MAX) {
            assert!(body.is_none_or(|body| body.len() <= BODY_BYTES_MAX));
        }
        assert!(head.field("content-length").is_none_or(|value| value.len() < reply.len()));
    }
});
