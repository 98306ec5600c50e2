//! Names of domains, each once: a leg holds a number.
//!
//! Also remembers what was said last for each domain, so that thousands of messages that one host
//! has refused share its words.

use std::collections::BTreeMap;
use std::rc::Rc;

/// The number of a domain that some leg goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct DomainId(u32);

#[derive(Debug)]
struct Domain {
    name: Rc<str>,
    /// 0: the place is free.
    legs_count: u32,
    words: Rc<str>,
}

/// All domains of a queue.
#[derive(Debug)]
pub(super) struct Domains {
    by_name: BTreeMap<Rc<str>, DomainId>,
    all: Vec<Domain>,
    free: Vec<DomainId>,
    /// No words, once for all.
    nothing: Rc<str>,
}

impl Default for Domains {
    fn default() -> Self {
        let (by_name, all, free) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { by_name, all, free, nothing: "".into() }
    }
}

impl Domains {
    /// A leg more goes to `name`; `words` are the last that were said there.
    pub(super) fn enter(&mut self, name: &str, words: &str) -> (DomainId, Rc<str>) {
        let id = match self.by_name.get(name) {
            Some(&id) => id,
            None => self.make(name),
        };
        if let Some(domain) = self.all.get_mut(id.0 as usize) {
            domain.legs_count += 1;
        }
        (id, self.words(id, words))
    }

    fn make(&mut self, name: &str) -> DomainId {
        let name: Rc<str> = name.into();
        let words = Rc::clone(&self.nothing);
        let domain = Domain { name: Rc::clone(&name), legs_count: 0, words };
        let id = match self.free.pop() {
            Some(id) => id,
            // There are fewer domains than legs, and fewer legs than 2^32.
            None => DomainId(u32::try_from(self.all.len()).unwrap_or(u32::MAX)),
        };
        match self.all.get_mut(id.0 as usize) {
            Some(place) => *place = domain,
            None => self.all.push(domain),
        }
        self.by_name.insert(name, id);
        id
    }

    /// A leg less goes there.
    pub(super) fn leave(&mut self, id: DomainId) {
        let Some(domain) = self.all.get_mut(id.0 as usize) else { return };
        domain.legs_count = domain.legs_count.saturating_sub(1);
        if domain.legs_count == 0 {
            self.by_name.remove(&domain.name);
            self.free.push(id);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<DomainId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn name(&self, id: DomainId) -> Rc<str> {
        self.all.get(id.0 as usize).map_or_else(|| "".into(), |domain| Rc::clone(&domain.name))
    }

    /// `words`, shared with others that were said there last.
    pub(super) fn words(&mut self, id: DomainId, words: &str) -> Rc<str> {
        if words.is_empty() {
            return Rc::clone(&self.nothing);
        }
        let Some(domain) = self.all.get_mut(id.0 as usize) else { return words.into() };
        if *domain.words != *words {
            domain.words = words.into();
        }
        Rc::clone(&domain.words)
    }

    #[cfg(test)]
    pub(super) fn names_count(&self) -> usize {
        self.by_name.len()
    }
}
