//! How fast graphs are built, marshalled and read: `cargo bench -p buildkit-llb`.
//!
//! Every case says how many vertices it makes, so the throughput is vertices a second; the most bytes that were
//! allocated at once are in the column `max alloc`. `hash` is the work nobody can avoid: the SHA-256 of the ops.

use buildkit_llb::{Definition, Digest, Platform, State, image, merge, scratch};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const CHAIN: &[usize] = &[100, 10_000, 100_000];

fn main() {
    divan::main();
}

/// Processes, each on what the one before left, with ops that are all of one length.
fn chain(length: usize) -> State {
    (0..length).fold(image("alpine"), |state, at| state.run(["step", &format!("{at:06}")]).root())
}

/// Files, laid over one another by one op.
fn wide(parts: usize) -> State {
    merge((0..parts).map(|at| scratch().mkfile(format!("/{at}"), 0o644, "x")))
}

fn marshal(state: &State) -> Definition {
    state.marshal(Platform::LINUX_AMD64).unwrap_or_default()
}

fn vertices(definition: &Definition) -> ItemsCount {
    ItemsCount::new(definition.ops().len())
}

#[divan::bench(args = CHAIN)]
fn chain_build_and_marshal(bencher: Bencher<'_, '_>, length: usize) {
    let count = vertices(&marshal(&chain(length)));
    bencher.counter(count).bench(|| marshal(&chain(black_box(length))));
}

#[divan::bench(args = CHAIN)]
fn chain_marshal(bencher: Bencher<'_, '_>, length: usize) {
    let state = chain(length);
    bencher.counter(vertices(&marshal(&state))).bench(|| marshal(black_box(&state)));
}

#[divan::bench(args = CHAIN)]
fn chain_hash(bencher: Bencher<'_, '_>, length: usize) {
    let definition = marshal(&chain(length));
    let hash = || {
        definition.ops().for_each(|op| {
            black_box(Digest::of(op.bytes()));
        });
    };
    bencher.counter(vertices(&definition)).bench(hash);
}

#[divan::bench(args = [10_000])]
fn wide_merge_build_and_marshal(bencher: Bencher<'_, '_>, parts: usize) {
    let count = vertices(&marshal(&wide(parts)));
    bencher.counter(count).bench(|| marshal(&wide(black_box(parts))));
}

#[divan::bench(args = [10_000])]
fn wide_merge_hash(bencher: Bencher<'_, '_>, parts: usize) {
    let definition = marshal(&wide(parts));
    let hash = || {
        definition.ops().for_each(|op| {
            black_box(Digest::of(op.bytes()));
        });
    };
    bencher.counter(vertices(&definition)).bench(hash);
}

#[divan::bench(args = [10_000])]
fn chain_write(bencher: Bencher<'_, '_>, length: usize) {
    let definition = marshal(&chain(length));
    bencher.counter(vertices(&definition)).bench(|| definition.to_bytes());
}

#[divan::bench(args = [10_000])]
fn chain_read(bencher: Bencher<'_, '_>, length: usize) {
    let definition = marshal(&chain(length));
    let bytes = definition.to_bytes();
    let read = || Definition::from_bytes(black_box(&bytes).clone()).and_then(|read| read.to_state());
    bencher.counter(vertices(&definition)).bench(read);
}
