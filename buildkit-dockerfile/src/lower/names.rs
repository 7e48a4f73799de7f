//! Names of vertices: `[build 2/5] RUN make`.

use buildkit_llb::{EnvList, Platform};

/// Position of the next named vertex among those of a stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    /// How many vertices the stage will name.
    pub(crate) total: usize,
    /// How many it has named.
    pub(crate) done: usize,
}

/// What stands in the brackets besides the position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix<'a> {
    /// Name of the stage; empty for none.
    pub(crate) stage: &'a str,
    /// The platform, where several are built.
    pub(crate) platform: Option<&'a Platform>,
    /// Variables that may say what is being compiled for.
    pub(crate) env: Option<&'a EnvList>,
    /// The instruction comes from `ONBUILD`.
    pub(crate) onbuild: bool,
}

impl Prefix<'_> {
    /// `text` with its prefix. Counts one vertex, unless the stage names none.
    pub(crate) fn apply(&self, counter: &mut Counter, text: &str) -> String {
        if counter.total == 0 {
            return text.to_owned();
        }
        counter.done += 1;
        self.at(counter, text)
    }

    /// `text` with the prefix of the vertex counted last.
    pub(crate) fn at(&self, counter: &Counter, text: &str) -> String {
        use std::fmt::Write as _;
        if counter.total == 0 {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len() + 32);
        out.push('[');
        if let Some(platform) = self.platform {
            out.push_str(&platform.format_all());
            if let Some(target) = self.env.and_then(target_of) {
                push_target(&mut out, platform, target);
            }
            out.push(' ');
        }
        if !self.stage.is_empty() {
            out.push_str(self.stage);
            out.push(' ');
        }
        let width = 1 + counter.total.checked_ilog10().unwrap_or(0) as usize;
        let _ = write!(out, "{:width$}/{}] ", counter.done, counter.total);
        if self.onbuild {
            out.push_str("ONBUILD ");
        }
        out.push_str(text);
        out
    }
}

/// The platform the variables `TARGET…` of a stage speak of.
fn target_of(env: &EnvList) -> Option<Platform> {
    let mut target = Platform::default();
    let mut found = false;
    for (key, value) in env.iter() {
        let part = match key {
            "TARGETPLATFORM" => match value.parse::<Platform>() {
                Ok(platform) => return Some(platform),
                Err(_) => continue,
            },
            "TARGETOS" => &mut target.os,
            "TARGETARCH" => &mut target.architecture,
            "TARGETVARIANT" => &mut target.variant,
            _ => continue,
        };
        *part = value.to_owned().into();
        found = true;
    }
    found.then_some(target)
}

fn push_target(out: &mut String, base: &Platform, mut target: Platform) {
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = target.normalized();
    if target.os != base.os {
        out.push_str("->");
        out.push_str(&target.format_all());
    } else if target.architecture != base.architecture {
        out.push_str("->");
        out.push_str(&target.architecture);
        if !target.variant.is_empty() {
            out.push('/');
            out.push_str(&target.variant);
        }
    }
}

/// `text` with its first word, up to the first blank, in upper case.
pub(crate) fn upper_first_word(text: &str) -> String {
    let (first, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    let mut out = String::with_capacity(text.len());
    out.extend(first.chars().flat_map(char::to_uppercase));
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(total: usize, done: usize, prefix: Prefix<'_>) -> String {
        prefix.apply(&mut Counter { total, done }, "RUN x")
    }

    const PLAIN: Prefix<'static> = Prefix { stage: "", platform: None, env: None, onbuild: false };

    #[test]
    fn positions_are_aligned_to_the_total() {
        assert_eq!(name(0, 0, PLAIN), "RUN x");
        assert_eq!(name(2, 1, PLAIN), "[2/2] RUN x");
        assert_eq!(name(9, 0, Prefix { stage: "build", ..PLAIN }), "[build 1/9] RUN x");
        assert_eq!(name(10, 0, PLAIN), "[ 1/10] RUN x");
        assert_eq!(name(100, 9, Prefix { onbuild: true, ..PLAIN }), "[ 10/100] ONBUILD RUN x");
    }

    #[test]
    fn cross_builds_show_an_arrow() {
        let amd64 = Platform::LINUX_AMD64;
        let named = |vars: &[(&str, &str)]| {
            let mut env = EnvList::new();
            for (k, v) in vars {
                env.set(k, v);
            }
            name(1, 0, Prefix { platform: Some(&amd64), env: Some(&env), ..PLAIN })
        };
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[], "[linux/amd64 1/1] RUN x"),
            (&[("TARGETOS", "linux"), ("TARGETARCH", "arm64")], "[linux/amd64->arm64 1/1] RUN x"),
            (&[("TARGETARCH", "arm")], "[linux/amd64->arm/v7 1/1] RUN x"),
            (&[("TARGETOS", "windows")], "[linux/amd64->windows/amd64 1/1] RUN x"),
            (&[("TARGETARCH", "arm64"), ("TARGETPLATFORM", "linux/amd64")], "[linux/amd64 1/1] RUN x"),
            (&[("TARGETPLATFORM", "///")], "[linux/amd64 1/1] RUN x"),
        ];
        for (vars, want) in cases {
            assert_eq!(named(vars), want, "{vars:?}");
        }
    }

    #[test]
    fn only_a_blank_ends_the_upper_case() {
        for (text, want) in [("run x y", "RUN x y"), ("run\tx y", "RUN\tX y"), ("add", "ADD"), ("", "")] {
            assert_eq!(upper_first_word(text), want);
        }
    }
}
