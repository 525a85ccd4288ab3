//! What a Lambda function finds in its environment. Pure.

use crate::function::handle::Revision;
use crate::name::FunctionName;
use funcd_sandbox::spec::Image;

/// Where its process asks for requests, on 127.0.0.1 of its own network namespace.
pub(crate) const PORT: u16 = 9001;

/// What a custom runtime expects. `_X_AMZN_TRACE_ID` and `AWS_EXECUTION_ENV` are not set for those.
pub(crate) fn environment(function: &FunctionName, revision: &Revision) -> Vec<(&'static str, String)> {
    let manifest = &revision.manifest;
    // The only folder of its own that a script has; a static executable has none but the root.
    let root = match revision.image {
        Image::Script => "/function",
        Image::Static | Image::Dynamic => "/",
    };
    let mut env = vec![
        ("AWS_LAMBDA_RUNTIME_API", format!("127.0.0.1:{PORT}")),
        ("AWS_LAMBDA_FUNCTION_NAME", function.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        // Clients read it as an integer, of MiB.
        (
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            (manifest.limits.memory_bytes >> 20).max(1).to_string(),
        ),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{function}")),
        (
            "AWS_LAMBDA_LOG_STREAM_NAME",
            format!("[$LATEST]{}", revision.id.short()),
        ),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("_HANDLER", "bootstrap".to_owned()),
        ("LAMBDA_TASK_ROOT", root.to_owned()),
        ("LAMBDA_RUNTIME_DIR", root.to_owned()),
        ("TZ", ":UTC".to_owned()),
    ];
    if manifest.scale.concurrency > 1 {
        env.push((
            "AWS_LAMBDA_MAX_CONCURRENCY",
            manifest.scale.concurrency.to_string(),
        ));
    }
    env
}

/// The region unless the manifest's `env` says another.
pub(super) const REGION: &str = "us-east-1";

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn clients_find_what_they_panic_without() {
        let function = FunctionName::parse("greeter").unwrap();
        let mut manifest = crate::ingress::tests::manifest();
        manifest.limits.memory_bytes = 300 << 20;
        let with = |concurrency| {
            let mut manifest = manifest.clone();
            manifest.scale.concurrency = concurrency;
            let revision = crate::ingress::tests::revision(0, manifest);
            environment(&function, &revision)
        };
        let env = with(1);
        let find = |env: &[(&str, String)], wanted| {
            let found = env.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone())
        };
        for (name, value) in [
            ("AWS_LAMBDA_RUNTIME_API", Some("127.0.0.1:9001")),
            ("AWS_LAMBDA_FUNCTION_NAME", Some("greeter")),
            ("AWS_LAMBDA_FUNCTION_VERSION", Some("$LATEST")),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", Some("300")),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", Some("on-demand")),
            ("AWS_LAMBDA_MAX_CONCURRENCY", None),
            ("_X_AMZN_TRACE_ID", None),
            ("AWS_EXECUTION_ENV", None),
        ] {
            assert_eq!(find(&env, name).as_deref(), value, "{name}");
        }
        assert_eq!(
            find(&with(16), "AWS_LAMBDA_MAX_CONCURRENCY").as_deref(),
            Some("16")
        );
    }
}
