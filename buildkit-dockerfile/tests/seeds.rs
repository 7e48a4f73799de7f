//! The seeds of the fuzz targets, and random inputs, hold what the targets check.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof, proptest};

#[path = "../../fuzz/checks/dockerfile.rs"]
mod checks;
#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn dockerfile_parse_seeds() {
    replay::seeds("dockerfile_parse", checks::dockerfile_parse);
}

#[test]
fn shell_lex_seeds() {
    replay::seeds("shell_lex", checks::shell_lex);
}

#[test]
fn heredoc_seeds() {
    replay::seeds("heredoc", checks::heredoc);
}

#[test]
fn directive_detect_seeds() {
    replay::seeds("directive_detect", checks::directive_detect);
}

#[test]
fn dockerfile_to_llb_seeds() {
    replay::seeds("dockerfile_to_llb", checks::dockerfile_to_llb);
}

/// Bytes that are often Dockerfiles.
fn files() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "FROM",
        "RUN",
        "COPY",
        "ENV",
        "ONBUILD",
        "HEALTHCHECK",
        "from",
        "as",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "\\",
        "--mount=",
        "--a=b",
        "--",
        "<<E",
        "<<-",
        "E\n",
        "\nE\n",
        "\"",
        "'",
        "[",
        "]",
        ",",
        "a",
        "=",
        "# ",
        "# escape=`\n",
        "${",
        "}",
        "$A",
        ":-",
        "%",
        "#",
        "/",
        "//",
        "*",
        "?",
        "\t",
        "\u{a0}",
        "é",
        "\u{feff}",
    ];
    let piece = prop_oneof![
        20 => (0..words.len()).prop_map(move |n| words[n].as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn random_files_are_read_without_loss(data in files()) {
        checks::dockerfile_parse(&data);
        checks::dockerfile_parse(&[b"FROM a\nRUN ".as_slice(), &data].concat());
        checks::heredoc(&data);
        checks::shell_lex(&data);
        checks::directive_detect(&data);
        checks::dockerfile_to_llb(&[b"FROM a\n".as_slice(), &data].concat());
    }
}
