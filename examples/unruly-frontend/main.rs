//! A frontend that does as it is told: what the tests of errors run. `README.md` says what it can be told.

#![allow(clippy::print_stdout)] // that is one of its faults

use std::time::Instant;

use buildkit_frontend::{BuildResult, Error, Gateway, NewContainer, Process, Result, serve};

async fn build(gateway: Gateway) -> Result<BuildResult> {
    let result = BuildResult::default();
    match gateway.options().get("do").unwrap_or_default() {
        "panic" => panic!("this is on purpose"),
        "fail" => Err(Error::new("there is a reason")),
        "exit" => std::process::exit(3),
        "hang" => std::future::pending().await,
        "print" => {
            for line in 0..10_000 {
                println!("{line}: standard output belongs to the daemon");
            }
            Ok(result.with_metadata("frontend.printed", "10000"))
        }
        "caps" => {
            let gateway_caps: Vec<&str> = gateway.caps().names().collect();
            let llb_caps: Vec<&str> = gateway.llb_caps().iter().map(|(name, _)| name).collect();
            Ok(result
                .with_metadata("frontend.gateway-caps", gateway_caps.join(","))
                .with_metadata("frontend.llb-caps", llb_caps.join(","))
                .with_metadata("frontend.workers", gateway.workers().len().to_string()))
        }
        "network" => Ok(result.with_metadata("frontend.interfaces", interfaces()?)),
        "secret" => {
            let tree = gateway.solve_state(&gateway.image("alpine").await?).await?;
            let container = gateway.container(NewContainer::new(tree.reference()?)).await?;
            let begun = Instant::now();
            let process = Process::new(["true"]).secret_env("TOKEN", "there-is-no-such-secret");
            match container.run(process).await {
                Ok(_) => Err(Error::new("it runs without its secret")),
                Err(error) => Ok(result
                    .with_metadata("frontend.error", error.report())
                    .with_metadata("frontend.milliseconds", begun.elapsed().as_millis().to_string())),
            }
        }
        "self" => {
            let own = gateway.current_frontend().ok_or_else(|| Error::new("the daemon does not tell"))?;
            let sources = own.ops().map(|op| op.title()).collect::<Result<Vec<_>, _>>()?;
            let tree = gateway.solve(own).await?;
            let program = tree.reference()?.stat("/frontend").await?;
            let running = std::fs::metadata("/frontend")?;
            Ok(result
                .with_metadata("frontend.sources", sources.join(","))
                .with_metadata("frontend.same-size", (program.size == running.len()).to_string()))
        }
        "return" => Ok(result),
        other => Err(Error::new(format!("do what? {other:?} is not known"))),
    }
}

/// The names of the network interfaces, with commas between them.
fn interfaces() -> Result<String> {
    let table = std::fs::read_to_string("/proc/net/dev")?;
    let mut names: Vec<&str> =
        table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    names.sort_unstable();
    Ok(names.join(","))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    serve(build).await
}
