//! Runs the check of a fuzz target as a plain test: over its seeds, their beginnings, and small changes to them.

use std::path::Path;
use std::time::{Duration, Instant};

/// The seeds are in `fuzz/seeds/<target>`. What the changes are does not depend on the run; how many there is time for
/// does.
pub(crate) fn seeds(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() > 4, "{target} has seeds");
    let seeds: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect();
    let started = Instant::now();
    for seed in &seeds {
        check(seed);
        // Every way to cut a short seed off, some of the ways for a long one.
        let step = seed.len() / 512 + 1;
        (0..seed.len()).step_by(step).for_each(|end| check(&seed[..end]));
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..4_000 {
        if started.elapsed() > Duration::from_secs(3) {
            break;
        }
        check(&changed(&seeds, &mut random));
    }
}

/// A seed with a few bytes changed, or the beginning of one before the end of another.
fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    if random.below(4) == 0 {
        let other = &seeds[random.below(seeds.len())];
        data.truncate(random.below(data.len() + 1));
        data.extend_from_slice(&other[random.below(other.len() + 1)..]);
    }
    for _ in 0..random.below(6) {
        let at = random.below(data.len() + 1);
        match random.below(4) {
            0 => data.insert(at, random.byte()),
            1 if at < data.len() => drop(data.remove(at)),
            2 if at < data.len() => data[at] ^= 1 << random.below(8),
            3 if at < data.len() => data[at] = random.byte(),
            _ => {}
        }
    }
    data
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (limit.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }
}
