//! Base images: looking them up side by side, and the triggers (`ONBUILD`) they bring along.

use std::borrow::Cow;
use std::sync::Arc;

use buildkit_llb::Platform;
use buildkit_llb::reference::Reference;
use futures::future::join_all;

use crate::error::{Error, ErrorKind, Result};
use crate::instructions::{Kind, parse_trigger};
use crate::lint::Linter;
use crate::suggest;

use super::config::ImageConfig;
use super::context::{Contexts, NamedContext};
use super::graph::Plan;
use super::names::{Counter, Prefix};
use super::resolver::ImageRequest;
use super::stage::{Origin, SCRATCH, TriggerChain};
use super::step::StageId;

/// How deep triggers of base images may lead to further base images.
const MAX_TRIGGER_DEPTH: u32 = 32;
/// Triggers all base images together may bring.
const MAX_TRIGGERS: usize = 4096;

/// Names suggested for base images that do not exist.
const COMMON_IMAGES: [&str; 7] = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

/// What looking up base images depends on.
pub(crate) struct BaseOptions<'a> {
    pub(crate) contexts: &'a Contexts<'a>,
    pub(crate) target_platform: &'a Platform,
    pub(crate) all_stages: bool,
}

/// What is known of a base image before it is looked up.
struct Lookup {
    stage: StageId,
    reachable: bool,
    reference: String,
    platform: Platform,
}

/// What became of a lookup.
#[allow(clippy::large_enum_variant, reason = "one per stage, and moved at once")]
enum Found {
    /// The stage is not needed; its name is fine.
    Unneeded(String),
    /// A named context stands in for the stage.
    Replacement(NamedContext),
    /// A named context stands in for the base image.
    Context(NamedContext),
    Image {
        reference: String,
        image: ImageConfig,
        base: Arc<ImageConfig>,
    },
}

impl Plan<'_> {
    /// Looks up the base images of all stages the target needs, until no trigger adds another one.
    pub(crate) async fn resolve(
        &mut self,
        options: &BaseOptions<'_>,
        linter: &mut Linter,
    ) -> Result<Vec<bool>> {
        let mut triggers = 0;
        loop {
            let (reachable, order) = self.reachable();
            self.resolve_images(options, &reachable, linter).await?;
            let mut grown = false;
            // Whether a stage finds triggers among the triggers of its base depends on who comes first, which the
            // reference leaves to chance; this is the order it takes most of the time.
            for id in order {
                grown |= self.add_triggers(id, &mut triggers)?;
            }
            if !grown {
                return Ok(reachable);
            }
        }
    }

    async fn resolve_images(
        &mut self,
        options: &BaseOptions<'_>,
        reachable: &[bool],
        linter: &mut Linter,
    ) -> Result<()> {
        let mut lookups = Vec::new();
        let mut failed = Vec::new();
        let mut last = None;
        for (id, stage) in self.stages.iter_mut().enumerate() {
            if stage.base.is_some() || stage.resolved || (stage.dispatched && stage.written.is_some()) {
                continue;
            }
            let needed = options.all_stages || reachable.get(id).copied().unwrap_or_default();
            stage.resolved = needed;
            if stage.base_name == SCRATCH && stage.replacement.is_none() {
                stage.origin = Origin::Scratch;
                stage.image = ImageConfig::scratch(options.target_platform);
                stage.platform = Some(options.target_platform.clone());
                stage.dispatched |= stage.written.is_none();
                continue;
            }
            last = Some(id);
            let reference = match Reference::parse_normalized(&stage.base_name) {
                Ok(reference) => reference,
                Err(e) => {
                    let message = format!("{:?} is no image reference and no stage", stage.base_name);
                    failed.push((id, Error::new(ErrorKind::Image, message).caused_by(e).at(stage.lines)));
                    continue;
                }
            };
            lookups.push(Lookup {
                stage: id,
                reachable: needed,
                reference: reference.with_default_tag().to_string(),
                platform: stage.platform.as_ref().unwrap_or(options.target_platform).clone(),
            });
        }
        let found = join_all(lookups.iter().map(|lookup| self.look_up(lookup, options))).await;
        for (lookup, found) in lookups.into_iter().zip(found) {
            match found {
                Ok(found) => self.apply(lookup, found, options, linter),
                Err(e) => {
                    let lines = self.stages.get(lookup.stage).map_or(super::stage::NOWHERE, |s| s.lines);
                    failed.push((lookup.stage, e.at(lines)));
                }
            }
        }
        // All are looked up side by side in the reference, and mostly the last one is the quickest to fail, then the
        // first one.
        match failed.into_iter().min_by_key(|(id, _)| (Some(*id) != last, *id)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    async fn look_up(&self, lookup: &Lookup, options: &BaseOptions<'_>) -> Result<Found> {
        if !lookup.reachable {
            return Ok(Found::Unneeded(lookup.reference.clone()));
        }
        let contexts = options.contexts;
        if let Some(replacement) = self.stages.get(lookup.stage).and_then(|s| s.replacement.as_ref()) {
            return contexts.load(replacement).await.map(Found::Replacement);
        }
        if let Some(context) = contexts.named(&lookup.reference, Some(&lookup.platform)).await? {
            return Ok(Found::Context(context));
        }
        let shown = if contexts.options.is_multi_platform() {
            format!("{} ", lookup.platform.format_all())
        } else {
            String::new()
        };
        let request = ImageRequest {
            reference: lookup.reference.clone(),
            platform: Some(lookup.platform.clone()),
            mode: contexts.options.resolve_mode,
            log_name: format!("[{shown}internal] load metadata for {}", lookup.reference),
            store: None,
        };
        let original = self.stages.get(lookup.stage).map_or("", |s| &s.original_base);
        let resolved = contexts.image(request).await.map_err(|e| {
            let tagged: Vec<String> = COMMON_IMAGES.iter().map(|n| format!("{n}:latest")).collect();
            let candidates = self.names().chain(COMMON_IMAGES).chain(tagged.iter().map(String::as_str));
            Error::new(ErrorKind::Image, format!("cannot find the base image {original}"))
                .caused_by(e)
                .did_you_mean(suggest::nearest(original, candidates))
        })?;
        let unusable = || Error::new(ErrorKind::Image, format!("the base image {original} is unusable"));
        let mut reference =
            Reference::parse_normalized(&resolved.reference).map_err(|e| unusable().caused_by(e))?;
        let base = ImageConfig::from_json(&resolved.config).map_err(|e| unusable().caused_by(e))?;
        let image = ImageConfig { created: None, ..base.clone() };
        if !resolved.digest.is_empty() {
            reference = reference.with_digest(&resolved.digest).map_err(|e| unusable().caused_by(e))?;
        }
        Ok(Found::Image { reference: reference.to_string(), image, base: Arc::new(base) })
    }

    fn apply(&mut self, lookup: Lookup, found: Found, options: &BaseOptions<'_>, linter: &mut Linter) {
        let Some(stage) = self.stages.get_mut(lookup.stage) else { return };
        // Nothing but its file system is used of an implicit stage.
        stage.dispatched |= stage.written.is_none();
        let platform = lookup.platform;
        match found {
            Found::Unneeded(reference) => {
                // The vertex is counted although it is not made; a trigger may still make it, and count again.
                stage.counter.done += usize::from(stage.counter.total > 0);
                stage.base_name = reference;
            }
            Found::Replacement(context) => {
                stage.dispatched = true;
                if let Some(image) = &context.image {
                    stage.image = (**image).clone();
                    if !image.architecture.is_empty() && !image.os.is_empty() {
                        stage.platform = Some(image.platform());
                    }
                }
                stage.state_platform = context.platform();
                stage.origin = Origin::Context { context, platform: None };
                return;
            }
            Found::Context(context) => {
                stage.base_name = lookup.reference;
                let image = context.image.as_deref().cloned();
                stage.base_image.clone_from(&context.image);
                stage.image = image.unwrap_or_else(|| ImageConfig::scratch(&platform));
                if stage.base_image.is_none() {
                    stage.base_image = Some(Arc::new(stage.image.clone()));
                }
                stage.state_platform = Some(platform.normalized());
                stage.origin = Origin::Context { context, platform: Some(platform.clone()) };
                stage.platform = Some(platform);
                return;
            }
            Found::Image { reference, image, base } => {
                stage.image = image;
                stage.base_image = Some(base);
                stage.base_name.clone_from(&reference);
                if stage.image.has_no_layers() {
                    stage.origin = Origin::Scratch;
                } else {
                    let shown = Some(&platform).filter(|_| options.contexts.options.is_multi_platform());
                    let mut counter: Counter = std::mem::take(&mut stage.counter);
                    let prefix = Prefix { stage: &stage.name, platform: shown, env: None, onbuild: false };
                    let name = prefix.apply(&mut counter, &format!("FROM {reference}"));
                    stage.counter = counter;
                    stage.state_platform = Some(platform.normalized());
                    stage.origin = Origin::Image {
                        reference,
                        name,
                        platform: platform.clone(),
                        command: stage.text().to_owned(),
                        lines: stage.lines,
                    };
                    let actual = stage.image.platform();
                    if actual.os != platform.os || actual.architecture != platform.architecture {
                        linter.invalid_base_image_platform(
                            stage.lines,
                            &stage.original_base,
                            &actual.to_string(),
                            &platform.to_string(),
                        );
                    }
                }
            }
        }
        stage.platform = Some(platform);
    }

    /// Puts the triggers of the base image or base stage in front of the instructions of stage `id`.
    fn add_triggers(&mut self, id: StageId, count: &mut usize) -> Result<bool> {
        let Some(stage) = self.stages.get_mut(id) else { return Ok(false) };
        let lines = stage.lines;
        let mut triggers = std::mem::take(&mut stage.image.config.on_build);
        let from_image = !triggers.is_empty();
        let image = stage.base_name.clone();
        if let Some(base) = stage.base
            && !std::mem::replace(&mut stage.triggers_added, true)
            && let Some(base) = self.stages.get(base)
        {
            triggers.extend(base.commands.iter().filter_map(|c| match &c.instruction.kind {
                Kind::Onbuild(text) => Some(text.clone()),
                _ => None,
            }));
        }
        if triggers.is_empty() {
            return Ok(false);
        }
        *count += triggers.len();
        if *count > MAX_TRIGGERS {
            let message =
                format!("the ONBUILD triggers of all base images together are more than {MAX_TRIGGERS}");
            return Err(Error::new(ErrorKind::Limit, message).at(lines));
        }
        if from_image {
            self.enter_triggers(id, &image).map_err(|e| e.at(lines))?;
        }

        let before = self.stages.get(id).map_or(0, |s| s.deps.len());
        let mut commands = Vec::with_capacity(triggers.len());
        for trigger in &triggers {
            let mut instruction = parse_trigger(trigger).map_err(|e| e.relocated(lines))?;
            instruction.lines = lines;
            commands.push(self.command(id, Cow::Owned(instruction), true).map_err(|e| e.relocated(lines))?);
        }
        let Some(stage) = self.stages.get_mut(id) else { return Ok(false) };
        let grown = stage.deps.len() > before || commands.iter().any(|c| !c.sources.is_empty());
        stage.counter.total += commands.len();
        commands.append(&mut stage.commands);
        stage.commands = commands;
        Ok(grown)
    }

    /// Refuses images whose triggers lead to themselves, or ever further.
    fn enter_triggers(&mut self, id: StageId, image: &str) -> Result<()> {
        let Some(stage) = self.stages.get_mut(id) else { return Ok(()) };
        let mut chain = stage.trigger_chain.as_ref();
        while let Some(link) = chain {
            if link.image == image {
                let message = format!("the ONBUILD triggers of {image} lead to {image} again");
                return Err(Error::new(ErrorKind::Limit, message));
            }
            chain = link.parent.as_ref();
        }
        if stage.trigger_depth >= MAX_TRIGGER_DEPTH {
            let message =
                format!("the ONBUILD triggers of {image} lead through more than {MAX_TRIGGER_DEPTH} images");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        stage.trigger_depth += 1;
        let parent = stage.trigger_chain.take();
        stage.trigger_chain = Some(Arc::new(TriggerChain { image: image.to_owned(), parent }));
        Ok(())
    }
}
