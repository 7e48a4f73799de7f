//! Rules about variables.

use super::{Linter, Rule, Site};

pub(super) static UNDEFINED_VAR: Rule = Rule {
    name: "UndefinedVar",
    description: "Variables should be defined before they are used",
    slug: Some("undefined-var"),
    inline: true,
    experimental: false,
};

pub(super) static SECRETS_USED_IN_ARG_OR_ENV: Rule = Rule {
    name: "SecretsUsedInArgOrEnv",
    description: "Sensitive data should not be passed by ARG or ENV",
    slug: Some("secrets-used-in-arg-or-env"),
    inline: true,
    experimental: false,
};

impl Linter {
    /// A word of the instruction at `site` uses `name`, which is not set.
    pub fn undefined_var(&mut self, site: Site<'_>, name: &str, meant: Option<&str>) {
        self.fire(&UNDEFINED_VAR, site, || {
            let hint = meant.map(|m| format!(" (did you mean ${m}?)")).unwrap_or_default();
            format!("variable '${name}' is not defined here{hint}")
        });
    }

    /// Checks a name that ARG or ENV (`keyword`) sets against the usual names of secrets.
    pub fn secrets_used_in_arg_or_env(&mut self, site: Site<'_>, keyword: &str, name: &str) {
        if looks_secret(name) {
            self.fire(&SECRETS_USED_IN_ARG_OR_ENV, site, || {
                format!("{keyword} \"{name}\" stays readable in the image; use RUN --mount=type=secret")
            });
        }
    }
}

/// Whether one of the words of `name` (between underscores) is a usual word for a secret, and none
/// says that it is public.
fn looks_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |list: &[&str]| name.split('_').any(|word| list.iter().any(|w| word.eq_ignore_ascii_case(w)));
    has(&SECRET) && !has(&HARMLESS)
}
