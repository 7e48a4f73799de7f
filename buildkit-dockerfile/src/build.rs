//! The frontend itself: from the options of a build to its result.

mod convertllb;
mod entrypoint;
mod report;
mod resolver;
mod sbom;
mod subrequest;

use std::collections::BTreeMap;

use buildkit_frontend::{
    Attestation, BASE_IMAGE_CONFIG, BuildResult, Code, Detail, Gateway, IMAGE_CONFIG, Reference,
    SOURCE_DATE_EPOCH, Solve, Warning, platform_id,
};
use buildkit_llb::{Definition, Platform};
use futures::future::join_all;

use crate::Dockerfile;
use crate::error::{Error, ErrorKind, Result};
use crate::lint::Linter;
use crate::lower::context::Contexts;
use crate::lower::convert::{self, Conversion, Evaluated};
use crate::lower::{Channel, ImageConfig, Options};
use crate::parser::{Lines, detect_syntax};

use self::entrypoint::{Entrypoint, ranges};
use self::resolver::GatewayResolver;
use self::sbom::Scanner;

/// Capabilities of the frontend that a client may ask for.
const FRONTEND_CAPS: [&str; 4] = ["inputs", "subrequests", "contexts", "gitquerystring"];

/// Builds a Dockerfile: the entry point of a frontend.
///
/// Reads the options and the Dockerfile, converts it for every platform asked for, solves the graphs and
/// returns the result with image configs. With the option `requestid` it answers a subrequest instead, and
/// a Dockerfile with `# syntax=` is handed on to that frontend, unless the option `cmdline` says that it
/// was handed on already.
///
/// # Errors
///
/// Malformed options and Dockerfiles, with the places in the Dockerfile; whatever the daemon answers.
pub async fn build(gateway: Gateway) -> buildkit_frontend::Result<BuildResult> {
    build_in(gateway, Channel::Stable).await
}

/// Builds a Dockerfile that may use what only the labs channel allows ([`Channel::Labs`]); otherwise as
/// [`build`].
///
/// # Errors
///
/// As [`build`].
#[cfg(feature = "labs")]
pub async fn build_labs(gateway: Gateway) -> buildkit_frontend::Result<BuildResult> {
    build_in(gateway, Channel::Labs).await
}

async fn build_in(gateway: Gateway, channel: Channel) -> buildkit_frontend::Result<BuildResult> {
    if !gateway.llb_caps().contains("file.base") {
        let message = "this frontend needs BuildKit 0.5 or later; update the daemon";
        return Err(buildkit_frontend::Error::with_code(Code::Unimplemented, message));
    }
    let opts: BTreeMap<String, String> = gateway.options().clone().into_map();
    let mut options = Options::from_frontend(&opts).map_err(plain)?;
    options.channel = channel;
    options.session = Some(gateway.session_id().to_owned()).filter(|s| !s.is_empty());
    let unsupported = check_caps(opts.get("frontend.caps").map_or("", String::as_str))?;

    let resolver = GatewayResolver::new(gateway.clone());
    let mut contexts = Contexts::open(&options, &resolver).await.map_err(plain)?;
    let entrypoint = Entrypoint::read(&gateway, &resolver, &mut contexts).await.map_err(plain)?;

    if !opts.contains_key("cmdline")
        && let Some((image, line, lines)) = other_frontend(&opts, &entrypoint.data)
    {
        return forward(&gateway, &resolver, with_args_as_options(opts), &image, line, lines, &entrypoint)
            .await;
    }
    if let Some(error) = unsupported {
        return Err(error);
    }
    let driver = Driver { gateway: &gateway, contexts: &contexts, entrypoint: &entrypoint };
    if let Some(request) = opts.get("requestid") {
        return driver.subrequest(request).await;
    }
    driver.build().await
}

/// Checks the capabilities the client asks for. One that may be provided by the frontend handed on to is
/// returned rather than failing at once.
fn check_caps(list: &str) -> buildkit_frontend::Result<Option<buildkit_frontend::Error>> {
    let mut deferred = None;
    for item in list.split(',').filter(|_| !list.is_empty()) {
        let (name, flags) = item.split_once('+').unwrap_or((item, ""));
        let known = name.strip_prefix("moby.buildkit.frontend.").is_some_and(|n| FRONTEND_CAPS.contains(&n));
        if known {
            continue;
        }
        let message = format!("this frontend does not have the capability {name:?}");
        let error = buildkit_frontend::Error::with_code(Code::Unimplemented, message)
            .with_detail(Detail::FrontendCap(name.to_owned()));
        if !flags.split('+').any(|f| f == "forward") {
            return Err(error);
        }
        deferred.get_or_insert(error);
    }
    Ok(deferred)
}

/// The frontend that the build argument or the Dockerfile asks for: image, command line, place.
fn other_frontend(opts: &BTreeMap<String, String>, data: &[u8]) -> Option<(String, String, Option<Lines>)> {
    if let Some(line) = opts.get("build-arg:BUILDKIT_SYNTAX") {
        let image = line.trim().split(' ').next().unwrap_or_default();
        return Some((image.to_owned(), line.clone(), None));
    }
    detect_syntax(data).map(|s| (s.image, s.command_line, Some(s.lines)))
}

/// The options as the next frontend gets them: build arguments that stand for options are options, too.
fn with_args_as_options(mut opts: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (arg, option) in [
        ("build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"),
        ("build-arg:BUILDKIT_SANDBOX_HOSTNAME", "hostname"),
    ] {
        if let Some(value) = opts.get(arg).filter(|value| !value.is_empty()).cloned() {
            opts.insert(option.to_owned(), value);
        }
    }
    opts
}

async fn forward(
    gateway: &Gateway,
    resolver: &GatewayResolver,
    opts: BTreeMap<String, String>,
    image: &str,
    command_line: String,
    lines: Option<Lines>,
    entrypoint: &Entrypoint,
) -> buildkit_frontend::Result<BuildResult> {
    let mut solve =
        Solve::frontend("gateway.v0").options(opts).option("cmdline", &command_line).option("source", image);
    if gateway.caps().contains("frontend.inputs") {
        for (name, definition) in resolver.inputs().await?.iter() {
            solve = solve.input(name, definition);
        }
    }
    gateway.solve(solve).await.map_err(|error| {
        if error.locations().is_empty() {
            match lines {
                Some(lines) => error.at(entrypoint.info.clone(), ranges(lines)),
                None => {
                    buildkit_frontend::Error::context(format!("BUILDKIT_SYNTAX={command_line} failed"), error)
                }
            }
        } else {
            error
        }
    })
}

/// An error about no place in the Dockerfile.
fn plain(error: Error) -> buildkit_frontend::Error {
    let unsupported = error.kind() == ErrorKind::Unsupported;
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
    let error = buildkit_frontend::Error::from(boxed);
    if unsupported { buildkit_frontend::Error::with_code(Code::Unimplemented, error.report()) } else { error }
}

/// A build whose Dockerfile was read.
struct Driver<'a> {
    gateway: &'a Gateway,
    contexts: &'a Contexts<'a>,
    entrypoint: &'a Entrypoint,
}

/// The result for one platform.
struct Built {
    /// Under which its tree is listed.
    asked: Platform,
    /// What it is for, as closely as is known.
    platform: Platform,
    reference: Option<Reference>,
    image: ImageConfig,
    base_image: Option<Vec<u8>>,
    epoch: Option<i64>,
    /// The graph of the SBOM scan.
    scan: Option<Definition>,
    attestation: Option<Attestation>,
}

impl Driver<'_> {
    /// Adds the places of `error` in the Dockerfile.
    fn located(&self, error: Error) -> buildkit_frontend::Error {
        let places: Vec<Lines> = error.locations().to_vec();
        places
            .into_iter()
            .fold(plain(error), |error, lines| error.at(self.entrypoint.info.clone(), ranges(lines)))
    }

    fn conversion<'c>(&'c self, platform: Option<&'c Platform>) -> Conversion<'c> {
        Conversion { contexts: self.contexts, platform, all_stages: false, map: Some(&self.entrypoint.map) }
    }

    fn linter(&self) -> buildkit_frontend::Result<Linter> {
        convert::linter(&self.entrypoint.data, self.contexts.options).map_err(plain)
    }

    /// Parses and evaluates; what lint rules say is shown, also when an error follows.
    async fn evaluate<'d>(
        &self,
        conversion: &Conversion<'_>,
        file: &'d mut Option<Dockerfile>,
        linter: &mut Linter,
    ) -> buildkit_frontend::Result<Result<Evaluated<'d>>> {
        let outcome = match Dockerfile::parse_with(&self.entrypoint.data, linter) {
            Ok(parsed) => conversion.evaluate(file.insert(parsed), linter).await,
            Err(error) => Err(error),
        };
        for warning in linter.take_warnings() {
            self.warn(&warning).await?;
        }
        Ok(outcome)
    }

    async fn warn(&self, warning: &crate::lint::Warning) -> buildkit_frontend::Result<()> {
        let line = match warning.lines {
            Lines { start, end } if start > 0 && start <= end => format!(" (line {start})"),
            _ => String::new(),
        };
        let shown = Warning {
            vertex: self.entrypoint.vertex.clone(),
            level: 1,
            short: format!("{}: {}{line}", warning.rule.name, warning.message),
            detail: vec![warning.rule.description.to_owned()],
            url: warning.rule.url(),
            info: Some(self.entrypoint.info.clone()),
            ranges: ranges(warning.lines),
        };
        self.gateway.warn(shown).await
    }

    async fn build(&self) -> buildkit_frontend::Result<BuildResult> {
        let options = self.contexts.options;
        let scanner = match &options.sbom {
            Some(sbom) => Some(Scanner::open(self.contexts, sbom).await.map_err(plain)?),
            None => None,
        };
        let platforms: Vec<Option<&Platform>> = if options.platforms.is_empty() {
            vec![None]
        } else {
            options.platforms.iter().map(Some).collect()
        };
        let builds = platforms
            .iter()
            .enumerate()
            .map(|(index, platform)| self.platform(index, *platform, scanner.as_ref()));
        // Platforms do not stop each other: what one of them solves is in the cache next time.
        let mut built: Vec<Built> =
            join_all(builds).await.into_iter().collect::<buildkit_frontend::Result<_>>()?;
        join_all(built.iter_mut().map(|built| self.scan(built)))
            .await
            .into_iter()
            .collect::<buildkit_frontend::Result<()>>()?;
        Ok(self.assemble(built))
    }

    async fn platform(
        &self,
        index: usize,
        platform: Option<&Platform>,
        scanner: Option<&Scanner>,
    ) -> buildkit_frontend::Result<Built> {
        // What lint rules say is the same for all platforms; that they are unusable stops each.
        let linter = self.linter()?;
        let mut linter = if index == 0 { linter } else { Linter::silent() };
        let conversion = self.conversion(platform);
        let mut file = None;
        let evaluated =
            self.evaluate(&conversion, &mut file, &mut linter).await?.map_err(|e| self.located(e))?;
        let graph = conversion.graph(&evaluated).await.map_err(|e| self.located(e))?;
        let definition = graph.marshal().map_err(|e| self.located(e))?;
        let reference = self.solve(&definition).await?;
        // BuildKit builds, and only then finds that it cannot write such a time.
        let image = &evaluated.image;
        let mut times = image.history.iter().map(|step| step.created).chain([image.created]).flatten();
        if times.any(|time| !time.is_writable()) {
            let message = "SOURCE_DATE_EPOCH is beyond the years 0 to 9999 that an image config can have";
            return Err(self.located(Error::new(ErrorKind::Option, message)));
        }

        let shown = match platform {
            Some(platform) => platform.clone(),
            None => self.gateway.default_platform(),
        };
        let scan = scanner
            .map(|scanner| scanner.graph(&platform_id(&shown), &evaluated, &graph))
            .transpose()
            .map_err(|e| self.located(e))?;
        let target = evaluated.plan.stages.get(evaluated.plan.target);
        let asked = shown.normalized();
        let mut platform = asked.clone();
        if platform.os == "windows" && evaluated.image.os == "windows" {
            if platform.os_version.is_empty() {
                platform.os_version = evaluated.image.os_version.clone().into();
            }
            if platform.os_features.is_empty() {
                platform.os_features.clone_from(&evaluated.image.os_features);
            }
        }
        Ok(Built {
            asked,
            platform,
            reference,
            base_image: target.and_then(|s| s.base_image.as_ref()).map(|image| image.to_json()),
            epoch: evaluated.epoch.map(|t| t.seconds),
            image: evaluated.image,
            scan,
            attestation: None,
        })
    }

    /// Scans what was built, if that was asked for.
    async fn scan(&self, built: &mut Built) -> buildkit_frontend::Result<()> {
        if let Some(definition) = built.scan.take() {
            let found = self.gateway.solve(Solve::definition(&definition)).await?;
            built.attestation = Some(Scanner::attest(found.single()?.cloned()));
        }
        Ok(())
    }

    async fn solve(&self, definition: &Definition) -> buildkit_frontend::Result<Option<Reference>> {
        let mut solve = Solve::definition(definition);
        for import in &self.contexts.options.cache_imports {
            solve = solve.cache_from(&import.kind, import.attributes.clone());
        }
        Ok(self.gateway.solve(solve).await?.single()?.cloned())
    }

    fn assemble(&self, built: Vec<Built>) -> BuildResult {
        let multi = self.contexts.options.is_multi_platform();
        let mut result = if multi {
            BuildResult::for_platforms(built.iter().map(|b| (b.asked.clone(), b.reference.clone())))
        } else {
            BuildResult::new(built.first().and_then(|b| b.reference.clone()))
        }
        .with_described_platforms(built.iter().map(|b| (&b.asked, &b.platform)));
        for built in built {
            let id = platform_id(&built.asked);
            let key = |name: &str| if multi { format!("{name}/{id}") } else { name.to_owned() };
            result.metadata.insert(key(IMAGE_CONFIG), built.image.to_json().into());
            if let Some(base) = built.base_image {
                result.metadata.insert(key(BASE_IMAGE_CONFIG), base.into());
            }
            if let Some(seconds) = built.epoch {
                result.metadata.insert(key(SOURCE_DATE_EPOCH), seconds.to_string().into());
            }
            if let Some(attestation) = built.attestation {
                result.attest(&built.asked, attestation);
            }
        }
        result
    }
}
