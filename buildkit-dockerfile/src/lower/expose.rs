//! Port specifications of `EXPOSE`: `[[ip:]host:]port[-port][/protocol]`.

use std::net::IpAddr;

use crate::error::{Error, ErrorKind, Result};
use crate::lint::{Linter, Site};

/// Adds the ports of `spec` to `ports` as `80/tcp`.
pub(crate) fn parse(spec: &str, site: Site<'_>, linter: &mut Linter, ports: &mut Vec<String>) -> Result<()> {
    let wrong = |why: &str| Error::new(ErrorKind::Instruction, format!("EXPOSE {spec}: {why}"));
    let (ip, host, container) = split(spec);
    let (container, protocol) = match container.split_once('/') {
        Some((port, protocol)) => (port, protocol),
        None => (container, "tcp"),
    };
    if container.is_empty() {
        return Err(wrong("there is no port"));
    }
    let lower = protocol.to_ascii_lowercase();
    let lower = if lower.is_empty() { "tcp" } else { lower.as_str() };
    if !matches!(lower, "tcp" | "udp" | "sctp") {
        return Err(wrong("the protocol must be tcp, udp or sctp"));
    }
    if !protocol.is_empty() && protocol != lower {
        linter.expose_proto_casing(site, spec);
    }
    if !ip.is_empty() || !host.is_empty() {
        linter.expose_invalid_format(site, spec);
    }

    if !ip.is_empty() {
        let bare = match ip.strip_prefix('[') {
            Some(rest) => {
                rest.strip_suffix(']').ok_or_else(|| wrong("the address lacks its closing bracket"))?
            }
            None => ip,
        };
        if !(bare.is_empty() && ip.starts_with('[')) && bare.parse::<IpAddr>().is_err() {
            return Err(wrong("the address is no IP address"));
        }
    }
    let (first, last) =
        range(container).ok_or_else(|| wrong("the port must be a number from 0 to 65535, or a range"))?;
    if !host.is_empty() {
        let (low, high) =
            range(host).ok_or_else(|| wrong("the host port must be a number from 0 to 65535, or a range"))?;
        if first != last && high - low != last - first {
            return Err(wrong("the ranges of host ports and container ports differ in length"));
        }
    }
    ports.extend((first..=last).map(|port| format!("{port}/{lower}")));
    Ok(())
}

/// Address, host port and container port; the first two may be empty.
fn split(spec: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = spec.rsplit_once(':') else { return ("", "", spec) };
    match rest.rsplit_once(':') {
        None => ("", rest, container),
        Some((ip, host)) => (ip, host, container),
    }
}

fn range(text: &str) -> Option<(u32, u32)> {
    let port = |word: &str| {
        let digits = word.strip_prefix('+').unwrap_or(word);
        let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        decimal.then(|| digits.parse().ok()).flatten().filter(|n: &u32| *n <= 65_535)
    };
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((low, high)) => {
            let (low, high) = (port(low)?, port(high)?);
            (low <= high).then_some((low, high))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::Config;
    use crate::parser::Lines;

    fn ports(spec: &str) -> (Result<Vec<String>>, Vec<&'static str>) {
        let mut linter = Linter::new(Config::default());
        let mut ports = Vec::new();
        let outcome = parse(spec, Lines::single(1).into(), &mut linter, &mut ports).map(|()| ports);
        (outcome, linter.take_warnings().iter().map(|w| w.rule.name).collect())
    }

    #[test]
    fn specifications_become_ports() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            ("80", &["80/tcp"], &[]),
            ("81/udp", &["81/udp"], &[]),
            ("7000-7002", &["7000/tcp", "7001/tcp", "7002/tcp"], &[]),
            ("80/TcP", &["80/tcp"], &["ExposeProtoCasing"]),
            ("8080:80", &["80/tcp"], &["ExposeInvalidFormat"]),
            ("127.0.0.1:80:80/TCP", &["80/tcp"], &["ExposeProtoCasing", "ExposeInvalidFormat"]),
            ("[::1]:80:80", &["80/tcp"], &["ExposeInvalidFormat"]),
        ];
        for (spec, want, rules) in cases {
            let (got, fired) = ports(spec);
            assert_eq!(got.unwrap(), want, "{spec}");
            assert_eq!(fired, rules, "{spec}");
        }
    }

    #[test]
    fn wrong_specifications_are_errors() {
        for spec in [
            "a",
            "80-",
            "-80",
            "80-70",
            "/tcp",
            "1:2:3:4",
            "x:80",
            "80:81-82",
            "300.1.1.1::80",
            "[::1]:80",
            "65536",
            "80:",
            "0x50",
            "80/TCP/udp",
            "1-2-3",
            "$",
            "80/foo",
            "70000",
        ] {
            assert!(ports(spec).0.is_err(), "{spec}");
        }
    }
}
