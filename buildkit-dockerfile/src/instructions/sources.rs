//! What ADD and COPY copy, and where to.

use super::fail;
use super::parse::Request;
use crate::Result;
use crate::parser::{Args, HeredocWord, chomp};

/// Sources and destination of ADD and COPY.
///
/// The order between paths and inline files is not kept, as in BuildKit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Paths, URLs and git references, each a word to expand.
    pub paths: Vec<String>,
    /// Files written into the Dockerfile as heredocs.
    pub inline: Vec<InlineFile>,
    /// The destination, a word to expand.
    pub dest: String,
}

/// A file written into the Dockerfile as a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Name of the heredoc and of the file.
    pub name: String,
    /// The content, leading tabs already dropped for `<<-`.
    pub content: Vec<u8>,
    /// Whether variables in it are expanded: one word, escape `\`, quotes without meaning
    /// ([`Lexer::heredoc`](crate::expand::Lexer::heredoc)).
    pub expand: bool,
}

impl Sources {
    pub(super) fn parse(request: Request) -> Result<Self> {
        let Request { keyword, args, heredocs, .. } = request;
        let (mut words, _) = Request::words(args);
        let dest = words.pop().unwrap_or_default();
        if HeredocWord::parse(&dest).is_some() {
            return Err(fail(format!(
                "the last argument of {keyword} is the destination, which cannot be a heredoc"
            )));
        }
        let mut sources = Sources { paths: Vec::new(), inline: Vec::new(), dest };
        // Most instructions have no heredoc; their list of words is the list of paths.
        if !words.iter().any(|word| word.contains("<<")) {
            sources.paths = words;
            return Ok(sources);
        }
        for word in words {
            let Some(HeredocWord { name, expand, chomp: chomped, .. }) = HeredocWord::parse(&word) else {
                sources.paths.push(word);
                continue;
            };
            // A name that occurs twice stands for its last body; a word in a JSON array has none.
            let body = heredocs.iter().rfind(|h| h.name == name).map_or(&[][..], |h| &h.body);
            let content = if chomped { chomp(body).into_owned() } else { body.to_vec() };
            sources.inline.push(InlineFile { name, content, expand });
        }
        Ok(sources)
    }
}

/// The check that comes before that of the flags.
pub(super) fn check_count(request: &Request) -> Result<()> {
    let (Args::Words(words) | Args::Json(words)) = &request.args else { return Ok(()) };
    if words.len() < 2 {
        let keyword = &request.keyword;
        return Err(fail(format!(
            "{keyword} needs at least one source and a destination: {keyword} source destination"
        )));
    }
    Ok(())
}
