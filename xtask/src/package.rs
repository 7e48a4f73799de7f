//! `cargo xtask package`: what would be published builds by itself, away from this repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::fail::{Context as _, Result};
use crate::workspace::{cargo, output, root, show, target};

/// What every package holds.
const ALWAYS: &[&str] = &["Cargo.toml", "README.md", "LICENSE", "src/lib.rs"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Where it may be published; everywhere if absent.
    publish: Option<Vec<String>>,
    description: Option<String>,
    license: Option<String>,
    keywords: Vec<String>,
    categories: Vec<String>,
}

/// Packs every crate that is to be published, unpacks it elsewhere, and compiles each by itself: offline,
/// without protoc, with nothing but the packages beside it and the dependencies that cargo has already.
pub(crate) fn run() -> Result {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo's metadata")?;
    let published = |package: &Package| package.publish.as_ref().is_none_or(|places| !places.is_empty());
    let packages: Vec<Package> = metadata.packages.into_iter().filter(published).collect();
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
        output(Command::new("tar").arg("-xzf").arg(&file).arg("-C").arg(dir))?;
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

/// Compiles each package with its own features alone: what it uses of a dependency, it asks for itself.
fn compile(packages: &[Package], dir: &Path) -> Result {
    let mut manifest =
        "[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n[profile.dev]\ndebug = false\n".to_owned();
    manifest.push_str("[patch.crates-io]\n");
    for package in packages {
        let folder = format!("{}-{}", package.name, package.version);
        manifest.extend([&package.name, " = { path = \"", &folder, "\" }\n"]);
    }
    std::fs::write(dir.join("Cargo.toml"), manifest).context(dir.display())?;
    // The same versions that are tested here.
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).context("Cargo.lock")?;
    for package in packages {
        let mut check = cargo();
        check.current_dir(dir).args(["check", "--quiet", "--offline", "--package", &package.name]);
        check.env("CARGO_TARGET_DIR", target().join("packages")).env("PROTOC", "/there/is/none");
        check.env_remove("RUSTFLAGS");
        show(&mut check)?;
        println!("{} {} compiles by itself", package.name, package.version);
    }
    Ok(())
}
