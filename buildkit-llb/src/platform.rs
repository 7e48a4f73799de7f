//! Platforms: what an image is built for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// An operating system and a processor architecture, in the words of OCI image indexes.
///
/// A `Platform` is kept as it was given; [`normalized`](Self::normalized) spells the common aliases out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Platform {
    /// Operating system: `linux`, `windows`, `darwin`, …
    pub os: Cow<'static, str>,
    /// Processor architecture: `amd64`, `arm64`, `arm`, …
    pub architecture: Cow<'static, str>,
    /// Variant of the architecture (`v7`), empty when there is none.
    pub variant: Cow<'static, str>,
    /// Version of the operating system (Windows images), empty when it does not matter.
    pub os_version: Cow<'static, str>,
    /// Features the operating system must have, such as `win32k`.
    pub os_features: Vec<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    text: String,
    reason: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a platform: {}", self.text, self.reason)
    }
}

impl std::error::Error for ParseError {}

const fn preset(os: &'static str, architecture: &'static str, variant: &'static str) -> Platform {
    Platform {
        os: Cow::Borrowed(os),
        architecture: Cow::Borrowed(architecture),
        variant: Cow::Borrowed(variant),
        os_version: Cow::Borrowed(""),
        os_features: Vec::new(),
    }
}

impl Platform {
    /// `linux/amd64`
    pub const LINUX_AMD64: Self = preset("linux", "amd64", "");
    /// `linux/arm64`
    pub const LINUX_ARM64: Self = preset("linux", "arm64", "");
    /// `linux/arm/v7`, hard float
    pub const LINUX_ARM_V7: Self = preset("linux", "arm", "v7");
    /// `linux/arm/v6`
    pub const LINUX_ARM_V6: Self = preset("linux", "arm", "v6");
    /// `linux/s390x`
    pub const LINUX_S390X: Self = preset("linux", "s390x", "");
    /// `linux/ppc64`
    pub const LINUX_PPC64: Self = preset("linux", "ppc64", "");
    /// `linux/ppc64le`
    pub const LINUX_PPC64LE: Self = preset("linux", "ppc64le", "");
    /// `linux/riscv64`
    pub const LINUX_RISCV64: Self = preset("linux", "riscv64", "");
    /// `darwin/amd64`
    pub const DARWIN_AMD64: Self = preset("darwin", "amd64", "");
    /// `windows/amd64`
    pub const WINDOWS_AMD64: Self = preset("windows", "amd64", "");

    /// A platform of an operating system and an architecture, without a variant.
    pub fn new(os: impl Into<Cow<'static, str>>, architecture: impl Into<Cow<'static, str>>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }
    }

    /// The platform this program was compiled for.
    pub fn host() -> Self {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            os => os,
        };
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "powerpc64" => ("ppc64", ""),
            "loongarch64" => ("loong64", ""),
            "wasm32" => ("wasm", ""),
            other => (other, ""),
        };
        preset(os, architecture, variant)
    }

    /// The same platform with a variant such as `v7`.
    #[must_use]
    pub fn with_variant(mut self, variant: impl Into<Cow<'static, str>>) -> Self {
        self.variant = variant.into();
        self
    }

    /// The platform with aliases spelled out: `Linux/x86_64` is `linux/amd64`, `linux/aarch64` is
    /// `linux/arm64`, `linux/arm` is `linux/arm/v7`. An empty operating system becomes that of the host;
    /// features are sorted, each once.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normalize_arch(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort_unstable();
        os_features.dedup();
        Self {
            os: normalize_os(&self.os),
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features,
        }
    }

    /// The text with the version and features of the operating system: `windows(10.0.1+win32k)/amd64`; `unknown`
    /// without an operating system.
    pub fn format_all(&self) -> String {
        if self.os.is_empty() {
            return "unknown".to_owned();
        }
        let mut os = self.os.to_string();
        if !self.os_version.is_empty() || !self.os_features.is_empty() {
            os.push('(');
            os.push_str(&escape(&self.os_version));
            let features: BTreeSet<&str> = self.os_features.iter().map(String::as_str).collect();
            for feature in features.into_iter().filter(|feature| !feature.is_empty()) {
                os.push('+');
                os.push_str(&escape(feature));
            }
            os.push(')');
        }
        join_parts(&[&os, &self.architecture, &self.variant])
    }
}

impl fmt::Display for Platform {
    /// The parts that are not empty, joined by slashes: `linux/arm/v7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join_parts(&[&self.os, &self.architecture, &self.variant]))
    }
}

impl FromStr for Platform {
    type Err = ParseError;

    /// Reads `os[(version+feature…)]/arch[/variant]`, or a single known operating system or architecture,
    /// which the host completes. Aliases are spelled out.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |reason| ParseError { text: text.to_owned(), reason };
        if text.contains('*') {
            return Err(fail("wildcards are not supported"));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 {
            return Err(fail("more than three parts"));
        }
        let (os_text, os_version, os_features) = split_os(parts.first().copied().unwrap_or_default())
            .ok_or_else(|| fail("malformed operating system"))?;
        if parts.iter().skip(1).any(|part| !is_word(part)) {
            return Err(fail("parts are letters, digits, '_', '.' and '-'"));
        }
        let mut platform = Self { os_version, os_features, ..Self::default() };
        match parts.as_slice() {
            [_] => {
                let os = normalize_os(&os_text);
                if KNOWN_OS.contains(&os.as_ref()) {
                    let host = Self::host();
                    platform.os = os;
                    platform.architecture = host.architecture;
                    if platform.architecture == "arm" && host.variant != "v7" {
                        platform.variant = host.variant;
                    }
                    return Ok(platform);
                }
                let (arch, variant) = normalize_arch(text, "");
                if !KNOWN_ARCH.contains(&arch.as_ref()) {
                    return Err(fail("neither a known operating system nor a known architecture"));
                }
                platform.os = Self::host().os;
                platform.variant = if arch == "arm" && variant == "v7" { "".into() } else { variant };
                platform.architecture = arch;
            }
            [_, arch] => {
                platform.os = normalize_os(&os_text);
                let (arch, variant) = normalize_arch(arch, "");
                platform.variant = if arch == "arm" && variant == "v7" { "".into() } else { variant };
                platform.architecture = arch;
            }
            [_, arch, variant] => {
                platform.os = normalize_os(&os_text);
                let (arch, variant) = normalize_arch(arch, variant);
                platform.variant = if arch == "arm64" && variant.is_empty() { "v8".into() } else { variant };
                platform.architecture = arch;
            }
            _ => return Err(fail("more than three parts")),
        }
        Ok(platform)
    }
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

fn join_parts(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join("/")
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `os`, or `os(version+feature…)`.
fn split_os(part: &str) -> Option<(String, Cow<'static, str>, Vec<String>)> {
    let Some((os, rest)) = part.split_once('(') else {
        return (is_word(part) && !part.contains('.')).then(|| (part.to_owned(), "".into(), Vec::new()));
    };
    let mut inner = rest.strip_suffix(')')?.split('+');
    let version = inner.next().unwrap_or_default();
    let features = inner.map(unescape).collect::<Option<Vec<String>>>()?;
    let version = if version.is_empty() { String::new() } else { unescape(version)? };
    (is_word(os) && !os.contains('.')).then(|| (os.to_owned(), version.into(), features))
}

/// What stands for itself nowhere in a version or feature is written as `%` and two hexadecimal digits.
fn escape(option: &str) -> String {
    option.chars().fold(String::with_capacity(option.len()), |mut out, c| {
        match c {
            '%' => out.push_str("%25"),
            '+' => out.push_str("%2B"),
            '(' => out.push_str("%28"),
            ')' => out.push_str("%29"),
            '/' => out.push_str("%2F"),
            c => out.push(c),
        }
        out
    })
}

fn unescape(option: &str) -> Option<String> {
    let mut parts = option.split('%');
    let first = parts.next().filter(|part| part.is_empty() || is_word(part))?;
    let mut out = first.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(digits)?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(Some(rest).filter(|rest| rest.is_empty() || is_word(rest))?.as_bytes());
    }
    String::from_utf8(out).ok().filter(|_| !option.is_empty())
}

fn normalize_os(os: &str) -> Cow<'static, str> {
    match os.to_ascii_lowercase().as_str() {
        "" => Platform::host().os,
        "macos" => "darwin".into(),
        "linux" => "linux".into(),
        other => other.to_owned().into(),
    }
}

fn normalize_arch(arch: &str, variant: &str) -> (Cow<'static, str>, Cow<'static, str>) {
    let variant = variant.to_ascii_lowercase();
    match arch.to_ascii_lowercase().as_str() {
        "i386" => ("386".into(), "".into()),
        "x86_64" | "x86-64" | "amd64" => {
            ("amd64".into(), if variant == "v1" { "".into() } else { variant.into() })
        }
        "aarch64" | "arm64" => (
            "arm64".into(),
            match variant.as_str() {
                "8" | "v8" | "v8.0" => "".into(),
                "9" | "9.0" | "v9.0" => "v9".into(),
                _ => variant.into(),
            },
        ),
        "armhf" => ("arm".into(), "v7".into()),
        "armel" => ("arm".into(), "v6".into()),
        "arm" => (
            "arm".into(),
            match variant.as_str() {
                "" | "7" => "v7".into(),
                "5" => "v5".into(),
                "6" => "v6".into(),
                "8" => "v8".into(),
                _ => variant.into(),
            },
        ),
        other => (other.to_owned().into(), variant.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_as_containerd_reads_them() {
        for (text, want) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/aarch64", "linux/arm64"),
            ("macos/i386", "darwin/386"),
            ("windows(10.0.1+win32k)/amd64", "windows/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text:?}");
        }
        for text in ["", "linux/", "a/b/c/d", "*", "linux/amd64!", "nonsense", "windows(1/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn version_and_features_survive_a_round_trip() {
        for (text, all) in [
            ("windows(10.0.1+win32k)/amd64", "windows(10.0.1+win32k)/amd64"),
            ("windows(10%2B1+b+a+b)/amd64", "windows(10%2B1+a+b)/amd64"),
            ("linux(+%2F%25%61)/arm64/v9", "linux(+%2F%25a)/arm64/v9"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().format_all(), all);
        }
        assert_eq!(Platform::default().format_all(), "unknown");
        for text in [
            "aarch64(10.0.1)",
            "linux.1/amd64",
            "windows(%)/amd64",
            "windows(%zz)/amd64",
            "windows(+)/amd64",
            "windows(a b)/amd64",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn normalizing_spells_aliases_out() {
        assert_eq!(Platform::new("LINUX", "aarch64").with_variant("v8").normalized(), Platform::LINUX_ARM64);
        assert_eq!(Platform::new("linux", "arm").normalized(), Platform::LINUX_ARM_V7);
        assert_eq!(Platform::new("linux", "arm64").with_variant("9").normalized().variant, "v9");
    }
}
