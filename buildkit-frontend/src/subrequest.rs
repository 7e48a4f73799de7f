//! Subrequests: questions to a frontend that are no builds, such as which
//! targets a file has.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::caps::gateway as cap;
use crate::detail::Detail;
use crate::error::{Code, Error, Result};
use crate::gateway::Gateway;
use crate::output::BuildResult;
use crate::solve::Solve;

/// Asks which subrequests there are; answered with a list of
/// [`Description`]s.
pub const DESCRIBE: &str = "frontend.subrequests.describe";
/// Asks for the arguments, secrets and other inputs of a target.
pub const OUTLINE: &str = "frontend.outline";
/// Asks for the targets.
pub const TARGETS: &str = "frontend.targets";
/// Asks for the warnings.
pub const LINT: &str = "frontend.lint";
/// Asks for the graph as JSON.
pub const CONVERT_LLB: &str = "frontend.convertllb";

/// The capability a frontend must have to be asked.
const CAPABILITY: &str = "moby.buildkit.frontend.subrequests";

const REQUEST_ID: &str = "requestid";
const JSON: &str = "result.json";
const TEXT: &str = "result.txt";
const VERSION: &str = "version";

/// What a subrequest is, for [`DESCRIBE`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// The version of its answers.
    pub version: String,
    /// How it is asked; always `rpc`.
    pub r#type: String,
    /// What it is for.
    pub description: String,
    /// The options it reads.
    pub opts: Option<Vec<Named>>,
    /// The inputs it reads.
    pub inputs: Option<Vec<Named>>,
    /// The metadata it answers with.
    pub metadata: Option<Vec<Named>>,
    /// The trees it answers with.
    pub refs: Option<Vec<Named>>,
}

/// Something with a name, inside a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
}

impl Description {
    /// A subrequest that answers with JSON and text.
    pub fn new(name: impl Into<String>, version: impl Into<String>, description: impl Into<String>) -> Self {
        let named = |name: &str| Named { name: name.into() };
        Self {
            name: name.into(),
            version: version.into(),
            r#type: "rpc".into(),
            description: description.into(),
            metadata: Some(vec![named(JSON), named(TEXT)]),
            ..Self::default()
        }
    }
}

/// The answer to a subrequest.
///
/// # Errors
/// When `value` cannot be JSON.
pub fn answer(version: &str, value: &impl Serialize, text: impl Into<String>) -> Result<BuildResult> {
    let json = serde_json::to_vec_pretty(value)?;
    Ok(BuildResult::default()
        .with_metadata(JSON, json)
        .with_metadata(TEXT, text.into())
        .with_metadata(VERSION, version.to_owned()))
}

/// The answer to [`DESCRIBE`]: the subrequests in `list`, and itself.
///
/// # Errors
/// None in practice.
pub fn describe(list: &[Description]) -> Result<BuildResult> {
    let mut all = list.to_vec();
    all.push(Description::new(DESCRIBE, "1.0.0", "List the subrequests of this frontend"));
    let short = |name: &str| name.strip_prefix("frontend.").unwrap_or(name).to_owned();
    let width = |head: &str, of: &dyn Fn(&Description) -> String| {
        all.iter().map(|one| of(one).chars().count()).max().unwrap_or(0).max(head.len())
    };
    let name = width("NAME", &|one| short(&one.name));
    let version = width("VERSION", &|one| one.version.clone());
    let mut text = format!("{:name$} {:version$} DESCRIPTION\n", "NAME", "VERSION");
    for one in &all {
        let line = format!("{:name$} {:version$} {}", short(&one.name), one.version, one.description);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    answer("1.0.0", &all, text)
}

/// The error for a subrequest a frontend does not know.
pub fn unsupported(name: &str) -> Error {
    Error::with_code(Code::Unimplemented, format!("unsupported request {name}"))
        .with_detail(Detail::Subrequest(name.into()))
}

/// Reads the JSON of an answer.
///
/// # Errors
/// When there is none, or when it is of another shape.
pub fn json<T: DeserializeOwned>(result: &BuildResult) -> Result<T> {
    let json = result
        .metadata
        .get(JSON)
        .ok_or_else(|| Error::new("the frontend did not answer the subrequest with JSON"))?;
    serde_json::from_slice(json)
        .map_err(|error| Error::context("the answer to the subrequest is damaged", error))
}

/// The text of an answer, for people.
pub fn text(result: &BuildResult) -> Option<&str> {
    result.metadata.get(TEXT).and_then(|text| std::str::from_utf8(text).ok())
}

impl Gateway {
    /// The subrequest this frontend is asked, instead of a build. A frontend
    /// image that answers any says so in its label
    /// `moby.buildkit.frontend.caps`.
    pub fn subrequest(&self) -> Option<&str> {
        self.options().get(REQUEST_ID).filter(|name| !name.is_empty())
    }

    /// Asks another frontend a question.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] when it does not know the subrequest or any.
    pub async fn ask(&self, frontend: Solve, name: &str) -> Result<BuildResult> {
        // Other daemons do not look at what the frontend can do, and it would build instead of answering.
        self.caps().require(cap::FRONTEND_CAPS, self.product())?;
        let question = frontend.option(REQUEST_ID, name).option("frontend.caps", CAPABILITY);
        self.solve(question).await.map_err(|error| {
            let unknown = |detail| matches!(detail, &Detail::Subrequest(_) | &Detail::FrontendCap(_));
            if error.details().any(unknown) { error.or_code(Code::Unimplemented) } else { error }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_a_table_and_a_list() {
        let result = describe(&[Description::new("frontend.packages", "1", "List packages")]).unwrap();
        let list: Vec<Description> = json(&result).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[1].name, DESCRIBE);
        assert_eq!(
            text(&result).unwrap(),
            "NAME                 VERSION DESCRIPTION\n\
             packages             1       List packages\n\
             subrequests.describe 1.0.0   List the subrequests of this frontend\n"
        );
    }
}
