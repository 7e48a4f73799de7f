//! Graphs as deep as nobody writes them by hand, on a stack as small as threads have it.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use buildkit_llb::{Definition, FileAction, Mount, Platform, State, diff, image, merge, mkdir, scratch};

/// What nobody writes by hand.
const DEPTH: usize = 200_000;
/// Deep enough to overflow the stack of a thread when every op takes a frame.
const DEEP: usize = 40_000;

/// Runs `work` on a stack of 2 MiB, the default of a thread.
fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

fn chain() -> State {
    (0..DEPTH).fold(image("alpine"), |state, at| state.run(["step", &at.to_string()]).root())
}

#[test]
fn a_chain_of_processes() {
    on_small_stack(|| {
        let state = chain();
        let other = state.clone();
        assert!(format!("{state:?}").len() < 200, "{state:?}");
        drop(state);
        let definition = other.marshal(Platform::LINUX_AMD64).unwrap();
        drop(other);
        assert_eq!(definition.ops().len(), DEPTH + 2);

        let lines = definition.to_json_lines().unwrap();
        assert_eq!(lines.lines().count(), DEPTH + 2);
        drop(lines);
        let dot = definition.to_dot().unwrap();
        assert_eq!(dot.lines().count(), 2 + (DEPTH + 2) + (DEPTH + 1));
        drop(dot);
        assert!(format!("{definition:?}").len() < 200);

        let bytes = definition.to_bytes();
        let read = Definition::from_bytes(bytes).unwrap();
        read.validate().unwrap();
        assert_eq!(read.walk().unwrap().len(), DEPTH + 1);
        let state = read.to_state().unwrap();
        drop(read);
        let again = state.marshal(Platform::LINUX_AMD64).unwrap();
        drop(state);
        assert!(again.ops().map(|op| op.digest()).eq(definition.ops().map(|op| op.digest())));
    });
}

#[test]
fn a_chain_of_every_kind_of_op() {
    on_small_stack(|| {
        let base = image("alpine");
        let state = (0..DEEP).fold(base.clone(), |state, at| match at % 6 {
            0 => state.mkfile(format!("/{at}"), 0o644, "x"),
            1 => merge([base.clone(), state]),
            2 => diff(&base, state),
            3 => state.requires("p", [&base]),
            4 => base.run(["x"]).mount("/in", Mount::bind(state).readonly()).output("/out", scratch()),
            _ => base.copy(state, "/a", "/b"),
        });
        let definition = state.clone().marshal(Platform::LINUX_AMD64).unwrap();
        assert!(definition.ops().len() > DEEP);
        // The last owner may be any of the threads that hold a clone.
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let state = state.clone();
                std::thread::Builder::new().stack_size(256 << 10).spawn(move || drop(state)).unwrap()
            })
            .collect();
        drop(state);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn actions_nested_in_actions() {
    on_small_stack(|| {
        let nested = (0..DEEP).fold(mkdir("/0", 0o755), |action, _| {
            FileAction::new().copy(action.with_state(scratch()), "/a", "/b")
        });
        assert!(format!("{nested:?}").len() < 2000);
        let state = scratch().file(nested.clone());
        drop(nested);
        let definition = state.marshal(Platform::LINUX_AMD64).unwrap();
        assert_eq!(definition.ops().len(), 2);
        assert_eq!(
            Definition::from_bytes(definition.to_bytes())
                .unwrap()
                .to_state()
                .unwrap()
                .marshal(Platform::LINUX_AMD64)
                .unwrap(),
            definition
        );
    });
}

/// Shared parts are visited once: a graph with 2^1000 paths is a small graph.
#[test]
fn a_ladder_of_shared_parts() {
    let state = (0..1000).fold(image("alpine"), |state, at| {
        let left = state.run(["l", &at.to_string()]).root();
        merge([left, state.run(["r", &at.to_string()]).root()])
    });
    assert!(format!("{state:?}").len() < 200);
    let definition = state.marshal(Platform::LINUX_AMD64).unwrap();
    assert_eq!(definition.ops().len(), 3 * 1000 + 2);
    let state = Definition::from_bytes(definition.to_bytes()).unwrap().to_state().unwrap();
    assert_eq!(state.marshal(Platform::LINUX_AMD64).unwrap(), definition);
}
