//! POP3, server side.
