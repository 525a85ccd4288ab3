//! What a `port` function finds in its environment: the names of Cloud Run and Knative, Kubeless and App Engine. Pure.
//!
//! What only the function's author can know is for the manifest's `env`: `FUNCTION_TARGET`, `MOD_NAME`, `FUNC_HANDLER`,
//! `FUNC_RUNTIME`, `GAE_RUNTIME`, `GOOGLE_CLOUD_PROJECT`.

use crate::catalog::manifest::Manifest;
use crate::function::handle::Revision;
use crate::name::FunctionName;

/// Google's libraries take whoever has App Engine's variables for App Engine, so they are only for those whose manifest says so.
const APP_ENGINE: &str = "GAE_ENV";
/// What App Engine puts before the name of a project.
const PARTITION: &str = "s~";

/// What a function that listens on this port finds.
pub(crate) fn environment(
    function: &FunctionName,
    revision: &Revision,
    port: u16,
) -> Vec<(&'static str, String)> {
    let manifest = &revision.manifest;
    let named = format!("{function}-{}", revision.id.short());
    let mebibytes = (manifest.limits.memory_bytes >> 20).max(1);
    let mut env = vec![
        ("PORT", port.to_string()),
        ("K_SERVICE", function.to_string()),
        ("K_REVISION", named.clone()),
        ("K_CONFIGURATION", function.to_string()),
        ("FUNC_PORT", port.to_string()),
        // Kubeless's runtimes read whole seconds.
        (
            "FUNC_TIMEOUT",
            manifest.request.timeout.as_secs().max(1).to_string(),
        ),
        ("FUNC_MEMORY_LIMIT", format!("{mebibytes}Mi")),
    ];
    if own(manifest, APP_ENGINE).is_some() {
        let project = own(manifest, "GOOGLE_CLOUD_PROJECT").unwrap_or("funcd");
        env.extend([
            ("GAE_APPLICATION", format!("{PARTITION}{project}")),
            ("GAE_SERVICE", function.to_string()),
            ("GAE_VERSION", revision.id.short()),
            ("GAE_DEPLOYMENT_ID", revision.id.short()),
            // The environment is that of a revision: `funcd ps` tells its instances apart.
            ("GAE_INSTANCE", named),
            ("GAE_MEMORY_MB", mebibytes.to_string()),
        ]);
    }
    env
}

fn own<'a>(manifest: &'a Manifest, wanted: &str) -> Option<&'a str> {
    let found = manifest.env.iter().find(|(name, _)| name == wanted);
    found.map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::time::Duration;

    use super::*;

    fn environment_with(env: &[(&str, &str)]) -> BTreeMap<&'static str, String> {
        let mut manifest = crate::ingress::tests::manifest();
        manifest.limits.memory_bytes = 128 << 20;
        manifest.request.timeout = Duration::from_millis(90_500);
        manifest.env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let revision = crate::ingress::tests::revision(0, manifest);
        let function = FunctionName::parse("shop").unwrap();
        environment(&function, &revision, 9000).into_iter().collect()
    }

    #[test]
    fn cloud_run_and_kubeless_find_their_names() {
        let env = environment_with(&[]);
        for (name, value) in [
            ("PORT", "9000"),
            ("K_SERVICE", "shop"),
            ("K_CONFIGURATION", "shop"),
            ("FUNC_PORT", "9000"),
            ("FUNC_TIMEOUT", "90"),
            ("FUNC_MEMORY_LIMIT", "128Mi"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(env["K_REVISION"].starts_with("shop-"), "{env:?}");
    }

    #[test]
    fn app_engines_names_are_for_who_says_so() {
        assert!(!environment_with(&[]).keys().any(|name| name.starts_with("GAE_")));
        let env = environment_with(&[("GAE_ENV", "standard"), ("GOOGLE_CLOUD_PROJECT", "acme")]);
        for (name, value) in [
            ("GAE_APPLICATION", "s~acme"),
            ("GAE_SERVICE", "shop"),
            ("GAE_MEMORY_MB", "128"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(env["GAE_INSTANCE"], env["K_REVISION"]);
        assert_eq!(environment_with(&[("GAE_ENV", "")])["GAE_APPLICATION"], "s~funcd");
    }
}
