//! Why an oracle says something else: classes of differences, each with the sentence of the RFC
//! that ours follows. A difference that no class takes in is a finding.

pub(crate) mod arc;
pub(crate) mod dkim;
pub(crate) mod results;
pub(crate) mod spf;

/// A kind of difference.
#[derive(Debug)]
pub(crate) struct Class<T: 'static> {
    pub(crate) name: &'static str,
    /// What ours follows.
    pub(crate) rfc: &'static str,
    pub(crate) holds: fn(&T) -> bool,
}

/// What the first class that takes a difference in says of it.
pub(crate) fn class<T>(
    classes: &[Class<T>],
    difference: &T,
) -> Option<(&'static str, &'static str)> {
    classes.iter().find(|class| (class.holds)(difference)).map(|class| (class.name, class.rfc))
}
