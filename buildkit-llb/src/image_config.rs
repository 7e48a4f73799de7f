//! OCI image configs, as far as they say how processes are run.

use serde_json::{Map, Value};

use crate::platform::Platform;

/// What a state takes over from an image config.
pub(crate) struct ImageConfig {
    /// Keys and values, in order.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory; empty for the one there was.
    pub(crate) dir: String,
    /// If the config says for which operating system and which processor the image is.
    pub(crate) platform: Option<Platform>,
}

impl ImageConfig {
    /// Reads a config; the error says which field is not as it must be.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        Kind::Object(IMAGE).check(&value, "the config")?;
        let config = field(&value, "config").unwrap_or(&Value::Null);
        let env = texts(config, "Env").into_iter().filter_map(|var| {
            let (key, value) = var.split_once('=').unwrap_or((var.as_str(), ""));
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        });
        let (os, architecture) = (text(&value, "os"), text(&value, "architecture"));
        let platform = (!os.is_empty() && !architecture.is_empty()).then(|| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: text(&value, "variant").into(),
            os_version: text(&value, "os.version").into(),
            os_features: texts(&value, "os.features"),
        });
        Ok(Self { env: env.collect(), dir: text(config, "WorkingDir"), platform })
    }
}

/// What a field holds. Null is as good as absent everywhere.
enum Kind {
    Text,
    /// RFC 3339.
    Time,
    Flag,
    List(&'static Kind),
    /// Any keys, and what their values are.
    Map(&'static Kind),
    /// The fields that are known; others may hold anything.
    Object(&'static [(&'static str, Kind)]),
}

/// The OCI image config. A field of the wrong kind is a mistake even if nothing is taken from it: it is one to
/// everybody else who reads the config.
const IMAGE: &[(&str, Kind)] = &[
    ("created", Kind::Time),
    ("author", Kind::Text),
    ("architecture", Kind::Text),
    ("os", Kind::Text),
    ("os.version", Kind::Text),
    ("os.features", Kind::List(&Kind::Text)),
    ("variant", Kind::Text),
    (
        "config",
        Kind::Object(&[
            ("User", Kind::Text),
            ("ExposedPorts", Kind::Map(&Kind::Object(&[]))),
            ("Env", Kind::List(&Kind::Text)),
            ("Entrypoint", Kind::List(&Kind::Text)),
            ("Cmd", Kind::List(&Kind::Text)),
            ("Volumes", Kind::Map(&Kind::Object(&[]))),
            ("WorkingDir", Kind::Text),
            ("Labels", Kind::Map(&Kind::Text)),
            ("StopSignal", Kind::Text),
            ("ArgsEscaped", Kind::Flag),
        ]),
    ),
    ("rootfs", Kind::Object(&[("type", Kind::Text), ("diff_ids", Kind::List(&Kind::Text))])),
    (
        "history",
        Kind::List(&Kind::Object(&[
            ("created", Kind::Time),
            ("created_by", Kind::Text),
            ("author", Kind::Text),
            ("comment", Kind::Text),
            ("empty_layer", Kind::Flag),
        ])),
    ),
];

impl Kind {
    /// Never deeper than the table of fields is.
    fn check(&self, value: &Value, name: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{name} is no {what}"));
        match (self, value) {
            (_, Value::Null) | (Self::Text, Value::String(_)) | (Self::Flag, Value::Bool(_)) => Ok(()),
            (Self::Time, Value::String(text)) if is_time(text) => Ok(()),
            (Self::List(kind), Value::Array(items)) => {
                items.iter().try_for_each(|item| kind.check(item, &format!("an item of {name}")))
            }
            (Self::Map(kind), Value::Object(map)) => {
                map.iter().try_for_each(|(key, value)| kind.check(value, &format!("{key:?} of {name}")))
            }
            (Self::Object(fields), Value::Object(map)) => {
                map.iter().try_for_each(|(key, value)| {
                    match fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)) {
                        Some((known, kind)) => kind.check(value, known),
                        None => Ok(()),
                    }
                })
            }
            (Self::Text, _) => wrong("text"),
            (Self::Time, _) => wrong("time"),
            (Self::Flag, _) => wrong("boolean"),
            (Self::List(_), _) => wrong("list"),
            (Self::Map(_) | Self::Object(_), _) => wrong("object"),
        }
    }
}

/// Whether a text is a time of RFC 3339, such as `2026-02-28T09:30:00.5+01:00`.
fn is_time(text: &str) -> bool {
    fn number(text: &str, digits: usize, most: u32) -> Option<(u32, &str)> {
        let (number, rest) = text.split_at_checked(digits)?;
        let number = number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())??;
        (number <= most).then_some((number, rest))
    }
    let read = || {
        let (year, rest) = number(text, 4, 9999)?;
        let (month, rest) = number(rest.strip_prefix('-')?, 2, 12)?;
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            0 => return None,
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (_, rest) = number(rest.strip_prefix('-')?, 2, days).filter(|(day, _)| *day > 0)?;
        let (_, rest) = number(rest.strip_prefix('T')?, 2, 23)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 2, 59)?;
        let (_, mut rest) = number(rest.strip_prefix(':')?, 2, 59)?;
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            fraction.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
        }
        if rest == "Z" {
            return Some(());
        }
        let (_, rest) = number(rest.strip_prefix(['+', '-'])?, 2, 23)?;
        let (_, rest) = number(rest.strip_prefix(':')?, 2, 59)?;
        rest.is_empty().then_some(())
    };
    read().is_some()
}

/// A field by its name, or else by its name in other letters: tools differ in how they write it.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let map: &Map<String, Value> = value.as_object()?;
    map.get(name)
        .or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn text(value: &Value, name: &str) -> String {
    field(value, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = field(value, name).and_then(Value::as_array).into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_processes_need_is_taken() {
        let json = r#"{"OS": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["f"], "more": 1,
            "Config": {"env": ["A=b=c", "B", "=x", null], "workingdir": "/w", "User": "u", "Labels": {"k": "v"}}}"#;
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(config.env, [("A".into(), "b=c".into()), ("B".into(), String::new())]);
        assert_eq!(config.dir, "/w");
        let platform = config.platform.unwrap();
        assert_eq!((platform.to_string().as_str(), platform.os_features.len()), ("linux/arm64/v8", 1));
        for none in ["null", "{}", r#"{"config": null, "os": "linux"}"#, r#"{"architecture": "x", "os": ""}"#]
        {
            let config = ImageConfig::parse(none.as_bytes()).unwrap();
            assert!(config.env.is_empty() && config.dir.is_empty() && config.platform.is_none(), "{none}");
        }
    }

    #[test]
    fn times_are_of_rfc_3339() {
        for time in
            ["2026-02-28T09:30:00Z", "2024-02-29T23:59:59.123456789+01:00", "0001-01-01T00:00:00-23:59"]
        {
            assert!(is_time(time), "{time}");
        }
        for no in [
            "2026-02-29T09:30:00Z",
            "2026-13-01T09:30:00Z",
            "2026-00-01T09:30:00Z",
            "2026-01-00T09:30:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00Z ",
            "+026-01-01T00:00:00Z",
            "é026-01-01T00:00:00Z",
        ] {
            assert!(!is_time(no), "{no}");
        }
    }

    #[test]
    fn a_field_of_the_wrong_kind_is_named() {
        for (json, error) in [
            ("[]", "the config is no object"),
            (r#"{"os": 1}"#, "os is no text"),
            (r#"{"created": ""}"#, "created is no time"),
            (r#"{"config": "x"}"#, "config is no object"),
            (r#"{"config": {"Env": "A=b"}}"#, "Env is no list"),
            (r#"{"config": {"Env": [1]}}"#, "an item of Env is no text"),
            (r#"{"config": {"Labels": {"a": 1}}}"#, "\"a\" of Labels is no text"),
            (r#"{"config": {"ExposedPorts": {"80/tcp": 1}}}"#, "\"80/tcp\" of ExposedPorts is no object"),
            (r#"{"history": [{"empty_layer": "yes"}]}"#, "empty_layer is no boolean"),
        ] {
            assert_eq!(ImageConfig::parse(json.as_bytes()).err().as_deref(), Some(error), "{json}");
        }
        assert!(ImageConfig::parse(b"{").is_err());
    }
}
