//! What must hold for any input: used by the fuzz targets and, over the seeds, by plain tests.

use buildkit_llb::git_url::{GitRef, GitUrl};
use buildkit_llb::reference::Reference;
use buildkit_llb::{self as llb, Definition, Error, MarshalOptions, Mount, Platform, State};

/// Bytes read as a definition: nobody panics, and what was read is kept.
pub(crate) fn llb_load(data: &[u8]) {
    let Ok(definition) = Definition::from_bytes(data.to_vec()) else { return };
    let again = Definition::from_bytes(definition.to_bytes()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, definition);
    let _ = definition.to_json_lines();
    let _ = definition.to_dot();
    let _ = definition.check_caps(&llb::caps::ServerCaps::frozen());
    for op in definition.ops() {
        let _ = (op.title(), op.to_json(), op.inputs(), op.metadata().to_json(), format!("{op:?}"));
        assert_eq!(definition.op(&op.digest()).map(|known| known.bytes()), Some(op.bytes()));
        let _: usize = op.locations().map(|(map, ranges)| map.filename().len() + ranges.len()).sum();
    }
    let valid = definition.validate();
    let Ok(state) = definition.to_state() else { return };
    let Ok(order) = definition.walk() else { panic!("a state was made of ops that cannot be gone through") };
    assert!(valid.is_err() || definition.is_empty() || order.len() < definition.ops().len());
    let again = marshal(&state).unwrap_or_else(|error| panic!("read, but not written: {error}"));
    assert_eq!(again.head().ok(), definition.head().ok());
    for op in order {
        let kept = again.op(&op.digest()).map(|kept| kept.bytes());
        assert_eq!(kept, Some(op.bytes()), "every op the result needs is kept as it was");
    }
}

/// A graph made of the bytes: what is marshalled, read and marshalled again is the same.
pub(crate) fn llb_roundtrip(data: &[u8]) {
    let Ok(definition) = marshal(&Recipe::read(data).in_order()) else { return };
    definition.validate().unwrap_or_else(|error| panic!("a daemon would refuse it: {error}"));
    let read = Definition::from_bytes(definition.to_bytes()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read, definition);
    let state = read.to_state().unwrap_or_else(|error| panic!("{error}"));
    let again = marshal(&state).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, definition);
    assert_eq!(again.to_bytes(), definition.to_bytes());
    llb_load(&definition.to_bytes());
}

/// An image reference in its full form is its own full form; platforms too.
pub(crate) fn image_ref(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(reference) = Reference::parse_normalized(&text) {
        let full = reference.with_default_tag();
        assert!(full.tag().is_some() || full.digest().is_some());
        let again = Reference::parse_normalized(&full.to_string());
        assert_eq!(again.as_ref().map(ToString::to_string), Ok(full.to_string()));
        let _ = (full.familiar_name(), full.clone().name_only());
    }
    let _ = marshal(&llb::image(text.as_ref()));
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.normalized().normalized(), platform.normalized());
        assert!(platform.format_all().parse::<Platform>().is_ok(), "{platform:?}");
    }
}

/// A git remote that was understood is understood again, unless it names nothing, and never grows a query or a fragment.
pub(crate) fn git_url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(url) = GitUrl::parse(&text) {
        if url.user.is_none() && url.host.is_empty() && url.path.is_empty() {
            // Go writes the URL of nothing so, and its remote is part of what is hashed. It is understood no more.
            let written = url.remote.trim_end_matches('?');
            assert!(["http:", "https:", "ssh:", "git:"].contains(&written), "{text:?} is {:?}", url.remote);
        } else {
            let again =
                GitUrl::parse(&url.remote).unwrap_or_else(|error| panic!("{:?}: {error}", url.remote));
            assert_eq!(
                (again.scheme, &again.host, &again.path),
                (url.scheme, &url.host, &url.path),
                "{text:?}"
            );
            assert!(again.query.is_empty() && again.fragment.is_none());
        }
        let subdir = url.fragment.map(|fragment| fragment.subdir).unwrap_or_default();
        assert!(subdir.split('/').all(|part| part != ".."), "{subdir:?} leaves the repository");
    }
    match GitRef::parse(&text) {
        Ok(git) => {
            let _ = (git.fragment_format(&git.remote, true), marshal(&llb::Git::from_ref(&git).into()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = marshal(&llb::git(text.as_ref(), text.as_ref()));
}

pub(crate) fn marshal(state: &State) -> Result<Definition, Error> {
    state.marshal(MarshalOptions::new(Platform::LINUX_AMD64).unique_id("u"))
}

/// A graph as data: every step makes a state, of those of earlier steps.
pub(crate) struct Recipe {
    steps: Vec<Step>,
}

/// What a step does, which earlier states it takes, and its options.
struct Step {
    kind: u8,
    inputs: Vec<usize>,
    options: Options,
}

/// Bytes that choices are made of, the same ones each time.
#[derive(Clone)]
struct Options([u8; Recipe::STEP - 4], usize);

impl Options {
    fn byte(&mut self) -> u8 {
        self.1 += 1;
        self.0[(self.1 - 1) % self.0.len()]
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Short texts, some of them odd.
    fn text(&mut self) -> &'static str {
        const TEXTS: [&str; 16] = [
            "a", "b", "/a", "/a/b", "a/../b/", "/", ".", "x/.", "é", "a b", "<&>", "root", "1:2", "A=B",
            "v1.0", "\u{1}",
        ];
        TEXTS[usize::from(self.byte() % 16)]
    }
}

impl Recipe {
    const STEP: usize = 16;

    /// Any bytes are a recipe.
    pub(crate) fn read(data: &[u8]) -> Self {
        let steps = data.chunks_exact(Self::STEP).take(200).enumerate().map(|(at, chunk)| {
            let input = |byte: &u8| at.checked_sub(1 + usize::from(*byte) % at.max(1));
            let mut options = [0; Self::STEP - 4];
            options.copy_from_slice(&chunk[4..]);
            Step {
                kind: chunk[0],
                inputs: chunk[1..4].iter().filter_map(input).collect(),
                options: Options(options, 0),
            }
        });
        Self { steps: steps.collect() }
    }

    /// The state of the last step, made step by step.
    pub(crate) fn in_order(&self) -> State {
        let mut states: Vec<State> = Vec::new();
        for step in &self.steps {
            let inputs: Vec<State> = step.inputs.iter().map(|at| states[*at].clone()).collect();
            states.push(step.make(&inputs));
        }
        states.pop().unwrap_or_default()
    }

    /// The state of the last step, made by making what it needs, the last input first.
    pub(crate) fn on_demand(&self) -> State {
        let mut states: Vec<Option<State>> = vec![None; self.steps.len()];
        let mut stack: Vec<usize> = self.steps.len().checked_sub(1).into_iter().collect();
        while let Some(at) = stack.last().copied() {
            let step = &self.steps[at];
            let missing: Vec<usize> =
                step.inputs.iter().copied().filter(|at| states[*at].is_none()).collect();
            if missing.is_empty() {
                stack.pop();
                let inputs: Vec<State> = step.inputs.iter().filter_map(|at| states[*at].clone()).collect();
                states[at].get_or_insert_with(|| step.make(&inputs));
            } else {
                stack.extend(missing);
            }
        }
        states.pop().flatten().unwrap_or_default()
    }

    /// The state of the last step, made without sharing anything; for short recipes.
    pub(crate) fn apart(&self) -> State {
        fn make(steps: &[Step], at: usize) -> State {
            let inputs: Vec<State> = steps[at].inputs.iter().map(|at| make(steps, *at)).collect();
            steps[at].make(&inputs)
        }
        self.steps.len().checked_sub(1).map(|last| make(&self.steps, last)).unwrap_or_default()
    }
}

impl Step {
    fn make(&self, inputs: &[State]) -> State {
        let mut options = self.options.clone();
        let input = |at: usize| inputs.get(at).cloned().unwrap_or_default();
        let constraints = constraints(&mut options);
        let text = options.text();
        match self.kind % 16 {
            0 => llb::Image::new(["alpine", "quay.io/a/b:1", "busybox"][usize::from(options.byte() % 3)])
                .layer_limit(u32::from(options.byte()))
                .constraints(&constraints)
                .into(),
            1 => llb::Local::new(text)
                .include([options.text()])
                .follow([text])
                .constraints(&constraints)
                .into(),
            2 => llb::Git::new("https://h/x.git", text)
                .checksum(options.text())
                .constraints(&constraints)
                .into(),
            3 => llb::Http::new("https://h/x").mode(options.byte().into()).constraints(&constraints).into(),
            4 | 5 => run(&mut options, inputs, &constraints),
            6 | 7 => file(&mut options, inputs, &constraints),
            8 => llb::Merge::new(inputs).constraints(&constraints).into(),
            9 => llb::Diff::new(input(0), input(1)).constraints(&constraints).into(),
            10 => llb::Requires::new(input(0), text, inputs.iter().skip(1)).constraints(&constraints).into(),
            11 => {
                let passthrough =
                    llb::Passthrough::new(text).hand_on(input(0)).dependency(input(1)).hand_on(input(2));
                passthrough.constraints(&constraints).outputs().pop().unwrap_or_default()
            }
            12 => llb::BuildOp::new(input(0)).filename(text).constraints(&constraints).into(),
            13 => input(0).env(text, options.text()).dir(options.text()).user(options.text()),
            14 => input(0).reset(&input(1)).network(llb::Network::Host).ulimit(text, 1, -1),
            _ => llb::scratch().dir(text).platform(&Platform::LINUX_ARM_V7),
        }
    }
}

fn constraints(options: &mut Options) -> llb::Constraints {
    let mut out = llb::Constraints::new();
    let bits = options.byte();
    if bits & 1 != 0 {
        out = out.name(options.text()).ignore_cache();
    }
    if bits & 2 != 0 {
        out = out.platform(Platform::LINUX_ARM64).require(options.text());
    }
    if bits & 4 != 0 {
        out = out.export_cache(options.flag()).progress_group(options.text(), "n", options.flag());
    }
    if bits & 8 != 0 {
        let memory = options.byte().into();
        out = out.linux_resources(llb::LinuxResources { memory, ..llb::LinuxResources::default() });
    }
    out
}

fn run(options: &mut Options, inputs: &[State], constraints: &llb::Constraints) -> State {
    let input = |at: usize| inputs.get(at).cloned().unwrap_or_default();
    let mut run = input(0).run([options.text(), options.text()]).env(options.text(), "v");
    let bits = options.byte();
    if bits & 1 != 0 {
        run = run.mount(options.text(), Mount::bind(input(1)).readonly().selector(options.text()));
    }
    if bits & 2 != 0 {
        run = run
            .mount("/cache", Mount::cache("c").from(input(2)))
            .mount("/tmp", Mount::tmpfs().size(bits.into()));
    }
    if bits & 4 != 0 {
        run = run.secret(llb::Secret::new("s").dest("/s").env("S")).ssh(llb::Ssh::new());
    }
    if bits & 8 != 0 {
        run = run.add_host("h", [1, 2, 3, bits]).device("d").valid_exit_codes([-1, 0, 7]).readonly_root();
    }
    run = run.constraints(constraints);
    if bits & 16 != 0 { run.output(options.text(), input(2)) } else { run.root() }
}

fn file(options: &mut Options, inputs: &[State], constraints: &llb::Constraints) -> State {
    let input = |at: usize| inputs.get(at).cloned().unwrap_or_default();
    let bound = llb::mkdir(options.text(), 0o700).copy(input(2), "/", "/").with_state(input(1));
    let mut action = llb::FileAction::new();
    for _ in 0..=options.byte() % 4 {
        let (path, bits) = (options.text(), options.byte());
        action = match bits % 6 {
            0 => action.mkfile(path, bits.into(), [0xff, bits].to_vec()),
            1 => action.then(llb::MkDir::new(path, bits.into()).parents().owner(options.text())),
            2 => action.copy(input(1), path, options.text()),
            3 => {
                action.then(llb::Copy::new(&bound, path, options.text()).mode(options.text()).include([path]))
            }
            4 => action.symlink(path, options.text()),
            _ => action.then(llb::Rm::new(path).wildcard()),
        };
    }
    llb::FileSteps::new(input(0), action).constraints(constraints).into()
}
