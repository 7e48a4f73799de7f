//! The options a frontend was called with.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use buildkit_llb::Platform;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::{Code, Error, Result};
use crate::resolve::ResolveMode;

/// The options of a frontend: texts by name, as `--opt` of buildctl gives
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// The text of an option; `None` when it was not given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether the option was given, with any text.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The option as a number, platform, or anything else that reads itself
    /// from a text; `None` when it was not given or is empty.
    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| invalid(name, text, &error))
    }

    /// A switch: absent is `false`; an empty text, as in `no-cache=`, is
    /// `true`; else one of `1`, `t`, `true`, `0`, `f`, `false`.
    pub fn switch(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(text) => Err(invalid(name, text, &"not a switch")),
        }
    }

    /// The options that begin with `prefix`, without it.
    pub fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map_while(move |(name, text)| Some((name.strip_prefix(prefix)?, text.as_str())))
    }

    /// The build argument of this name (option `build-arg:NAME`).
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.get(&format!("build-arg:{name}"))
    }

    /// All build arguments by name.
    pub fn build_args(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prefixed("build-arg:")
    }

    /// The target to build; `None` for the default one.
    pub fn target(&self) -> Option<&str> {
        self.get("target").filter(|text| !text.is_empty())
    }

    /// The platforms to build for, from option `platform` (a list with
    /// commas); empty when it was not given.
    pub fn platforms(&self) -> Result<Vec<Platform>> {
        let Some(list) = self.get("platform").filter(|list| !list.is_empty()) else {
            return Ok(Vec::new());
        };
        list.split(',')
            .map(|text| {
                let platform: Platform = text.parse().map_err(|error| invalid("platform", text, &error))?;
                Ok(platform.normalized())
            })
            .collect()
    }

    /// Where images are looked for, from option `image-resolve-mode`:
    /// `default`, `pull` or `local`.
    pub fn resolve_mode(&self) -> Result<ResolveMode> {
        match self.get("image-resolve-mode") {
            None | Some("" | "default") => Ok(ResolveMode::Default),
            Some("pull") => Ok(ResolveMode::ForcePull),
            Some("local") => Ok(ResolveMode::PreferLocal),
            Some(text) => Err(invalid("image-resolve-mode", text, &"it is default, pull or local")),
        }
    }

    /// Labels for the image by name (options `label:NAME`).
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prefixed("label:")
    }

    /// Reads all options into a type of the frontend: its fields are names of
    /// options, optional where the option is. Numbers, switches (see
    /// [`switch`](Self::switch)) and enums are read from their texts, and a
    /// `Vec` from a list with commas.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Mine {
    ///     #[serde(default)]
    ///     jobs: u32,
    ///     #[serde(rename = "no-cache", default)]
    ///     no_cache: bool,
    ///     label: Option<String>,
    /// }
    ///
    /// let options: buildkit_frontend::Options = [("jobs", "4"), ("no-cache", "")].into_iter().collect();
    /// let mine: Mine = options.decode()?;
    /// assert_eq!((mine.jobs, mine.no_cache, mine.label), (4, true, None));
    /// # Ok::<(), buildkit_frontend::Error>(())
    /// ```
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let entries = self.0.iter().map(|(name, text)| (name.as_str(), Text { name, text }));
        T::deserialize(MapDeserializer::new(entries))
            .map_err(|Problem(text)| Error::with_code(Code::InvalidArgument, text))
    }

    /// All options in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Sets an option.
    pub fn insert(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.insert(name.into(), text.into());
    }

    /// The options as a plain map.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(options: I) -> Self {
        Self(options.into_iter().map(|(name, text)| (name.into(), text.into())).collect())
    }
}

impl From<BTreeMap<String, String>> for Options {
    fn from(options: BTreeMap<String, String>) -> Self {
        Self(options)
    }
}

fn invalid(name: &str, text: &str, reason: &dyn fmt::Display) -> Error {
    Error::with_code(Code::InvalidArgument, format!("option {name}={text}: {reason}"))
}

/// The text of one option, read as whatever is wanted.
struct Text<'a> {
    name: &'a str,
    text: &'a str,
}

#[derive(Debug)]
struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl serde::de::Error for Problem {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }
}

impl Text<'_> {
    fn parse<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, Problem> {
        self.text.parse().map_err(|error| Problem(format!("option {}={}: {error}", self.name, self.text)))
    }
}

impl<'de> IntoDeserializer<'de, Problem> for Text<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            visitor.$visit(self.parse()?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Problem;

    numbers! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16 deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_f32 visit_f32 deserialize_f64 visit_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_borrowed_str(self.text)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let one = Options::from_iter([(self.name, self.text)]);
        visitor.visit_bool(one.switch(self.name).map_err(|error| Problem(error.to_string()))?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let name = self.name;
        let parts = self.text.split(',').filter(|part| !part.is_empty()).map(|text| Text { name, text });
        visitor.visit_seq(serde::de::value::SeqDeserializer::new(parts))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let text: serde::de::value::BorrowedStrDeserializer<'de, Problem> =
            serde::de::value::BorrowedStrDeserializer::new(self.text);
        visitor.visit_enum(text)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}
