//! Calling another frontend the way this one was called.

use crate::error::Result;
use crate::gateway::Gateway;
use crate::solve::Solve;

/// The option that names the image of a frontend.
const SOURCE: &str = "source";

impl Gateway {
    /// A request that calls another frontend the way this one was called:
    /// with the same options and inputs. It can be changed before it is
    /// solved, which makes this frontend a wrapper around the other.
    ///
    /// `frontend` is one inside the daemon, such as `dockerfile.v0`, or the
    /// reference of an image.
    ///
    /// # Errors
    /// When the daemon cannot say which inputs there are.
    pub async fn forward(&self, frontend: &str) -> Result<Solve> {
        let own = self.options().iter().filter(|(name, _)| *name != SOURCE);
        let is_builtin = matches!(frontend, "dockerfile.v0" | "gateway.v0");
        let mut request =
            if is_builtin { Solve::frontend(frontend) } else { Solve::frontend_image(frontend) };
        request = request.options(own);
        for (name, input) in &self.inputs().await? {
            request = request.input(name, input);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use crate::options::Options;
    use crate::simulated::Simulated;

    #[test]
    fn a_nested_build_has_options_of_its_own_on_the_same_daemon() {
        let simulated = Simulated::new().option("target", "outer").option("source", "image");
        let outer = simulated.gateway();
        let inner = outer.with_options(Options::from_iter([("target", "inner")]));
        block_on(async {
            for gateway in [&outer, &inner] {
                gateway.solve(gateway.forward("dockerfile.v0").await.unwrap()).await.unwrap();
            }
        });
        let options: Vec<_> = simulated.solves().into_iter().map(|solve| solve.frontend_opt).collect();
        let target = |text: &str| [("target".to_owned(), text.to_owned())].into();
        assert_eq!(options, [target("outer"), target("inner")]);
    }
}
