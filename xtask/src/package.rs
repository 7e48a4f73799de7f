//! `cargo xtask package`: what would be published builds by itself, away from this repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::{Context as _, Result};
use crate::workspace::{Package, cargo, output, packages, root, show, target};

/// What every package holds.
const ALWAYS: &[&str] = &["Cargo.toml", "README.md", "LICENSE", "src/lib.rs"];

/// Packs every crate that is to be published, unpacks it elsewhere, and compiles each by itself: offline,
/// without protoc, with nothing but the packages beside it and the dependencies that cargo has already.
pub(crate) fn run() -> Result {
    let published = |package: &Package| package.publish.as_ref().is_none_or(|places| !places.is_empty());
    let packages: Vec<Package> = packages()?.into_iter().filter(published).collect();
    for package in &packages {
        complete(package)?;
    }

    // Not below the target directory of the workspace: cargo would take it for a part of it.
    let dir = std::env::temp_dir().join(format!("buildkit-packages-{}", std::process::id()));
    let outcome = pack(&packages, &dir).and_then(|()| compile(&packages, &dir));
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

/// What a registry shows of a package is there.
fn complete(package: &Package) -> Result {
    let missing = [
        (package.description.is_none(), "a description"),
        (package.license.is_none(), "a licence"),
        (package.keywords.is_empty(), "keywords"),
        (package.categories.is_empty(), "categories"),
    ];
    match missing.iter().find(|(missing, _)| *missing) {
        Some((_, what)) => Err(format!("{} has no {what}", package.name)),
        None => Ok(()),
    }
}

/// Makes the packages and unpacks them below `dir`.
fn pack(packages: &[Package], dir: &Path) -> Result {
    let packed = target().join("package");
    let mut command = cargo();
    command.args(["package", "--quiet", "--offline", "--no-verify", "--allow-dirty"]);
    for package in packages {
        command.args(["--package", &package.name]);
    }
    show(&mut command)?;
    std::fs::create_dir_all(dir).context(dir.display())?;
    for package in packages {
        let file = packed.join(format!("{}-{}.crate", package.name, package.version));
        // With the time of now: files of a package carry an old one, by which cargo would take what it compiled
        // of an earlier package for up to date.
        output(Command::new("tar").arg("-xzmf").arg(&file).arg("-C").arg(dir))?;
        let unpacked = unpacked(package, dir);
        for file in ALWAYS {
            if !unpacked.join(file).is_file() {
                return Err(format!("the package {} lacks {file}", package.name));
            }
        }
        if unpacked.join("build.rs").exists() {
            return Err(format!("the package {} has a build script", package.name));
        }
    }
    Ok(())
}

fn unpacked(package: &Package, dir: &Path) -> PathBuf {
    dir.join(format!("{}-{}", package.name, package.version))
}

/// Compiles each package by itself, as it comes, without features, and with each of them alone: what it uses of a
/// dependency, it asks for itself.
fn compile(packages: &[Package], dir: &Path) -> Result {
    let ours = std::fs::read_to_string(root().join("Cargo.toml")).context("Cargo.toml")?;
    // The same profile: what clippy has compiled of the dependencies is not compiled again.
    let mut manifest = format!("[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n{}", profile(&ours));
    manifest.push_str("[patch.crates-io]\n");
    for package in packages {
        let folder = format!("{}-{}", package.name, package.version);
        manifest.extend([&package.name, " = { path = \"", &folder, "\" }\n"]);
    }
    std::fs::write(dir.join("Cargo.toml"), manifest).context(dir.display())?;
    // The same versions that are tested here.
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).context("Cargo.lock")?;
    for package in packages {
        let check = |features: &[&str]| {
            let mut check = cargo();
            check.current_dir(dir).args(["check", "--quiet", "--offline", "--package", &package.name]);
            check.args(features).env("CARGO_TARGET_DIR", target()).env("PROTOC", "/there/is/none");
            show(&mut check)
        };
        check(&[])?;
        if package.features.contains_key("default") {
            check(&["--no-default-features"])?;
        }
        let features: Vec<&str> =
            package.features.keys().map(String::as_str).filter(|name| *name != "default").collect();
        for feature in &features {
            check(&["--no-default-features", "--features", feature])?;
        }
        let each = if features.is_empty() { String::new() } else { format!("; {}", features.join(", ")) };
        println!("{} {} compiles by itself{each}", package.name, package.version);
    }
    Ok(())
}

/// The sections of a manifest that are about the development profile.
fn profile(manifest: &str) -> String {
    let mut inside = false;
    let kept = manifest.lines().filter(|line| {
        if line.starts_with('[') {
            inside = line.starts_with("[profile.dev");
        }
        inside
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_profile_is_taken_whole_and_alone() {
        let manifest =
            "[a]\nb = 1\n[profile.dev]\nc = 2\n[profile.dev.package.d]\ne = 3\n[profile.release]\nf = 4\n";
        let profile = "[profile.dev]\nc = 2\n[profile.dev.package.d]\ne = 3\n";
        assert_eq!(super::profile(manifest), profile);
    }
}
