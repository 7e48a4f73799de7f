//! Environment variables in the order in which they were last set.

use std::fmt;
use std::sync::Arc;

/// An ordered list of environment variables. Cloning is one reference count.
///
/// Setting a variable again moves it to the end, as BuildKit does; the order is part of a vertex's digest.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EnvList {
    vars: Arc<Vec<(Arc<str>, Arc<str>)>>,
}

impl EnvList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value` at the end of the list; an older value is removed.
    pub fn set(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) {
        let key = key.as_ref();
        let vars = Arc::make_mut(&mut self.vars);
        if let Some(at) = vars.iter().position(|(k, _)| &**k == key) {
            vars.remove(at);
        }
        vars.push((key.into(), value.as_ref().into()));
    }

    /// Sets `key` only if it is not there yet.
    pub fn set_default(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) {
        if self.value(key.as_ref()).is_none() {
            self.set(key, value);
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.vars.iter().position(|(k, _)| &**k == key) {
            Arc::make_mut(&mut self.vars).remove(at);
        }
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.vars.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// Key and value of every variable, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + DoubleEndedIterator + Clone {
        self.vars.iter().map(|(k, v)| (&**k, &**v))
    }

    /// The list as `KEY=value` lines.
    pub fn to_vec(&self) -> Vec<String> {
        self.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.vars.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.vars.is_empty()
    }
}

impl fmt::Debug for EnvList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Extend<(K, V)> for EnvList {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, vars: I) {
        for (key, value) in vars {
            self.set(key, value);
        }
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for EnvList {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        let mut list = Self::new();
        list.extend(vars);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_moves_to_the_end() {
        let mut env: EnvList = [("A", "1"), ("B", "2"), ("A", "3")].into_iter().collect();
        assert_eq!(env.to_vec(), ["B=2", "A=3"]);
        env.set_default("B", "9");
        env.set_default("C", "");
        assert_eq!(env.to_vec(), ["B=2", "A=3", "C="]);
        let copy = env.clone();
        env.remove("A");
        assert_eq!((env.value("A"), copy.value("A")), (None, Some("3")));
    }
}
