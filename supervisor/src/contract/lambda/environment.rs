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
