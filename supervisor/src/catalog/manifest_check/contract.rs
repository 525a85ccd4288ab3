//! How requests get in: `contract` and the keys that belong to one of them alone. Reads no file.

use super::super::manifest::{AsLambda, Contract, H2c, Mode, Stdio};
use super::{Layers, in_first};
use crate::typed::{TypedError, error, number, pick, size};

/// Of `contract = "port"`.
pub(super) const DEFAULT_PORT: u16 = 8080;

/// Those that this version knows.
const CONTRACTS: [&str; 8] = ["auto", "http", "port", "lambda", "stdio", "cgi", "ironhttp", "fn"];

/// The contract, and whether another may yet be found in the executable.
pub(super) fn contract(layers: Layers<'_>) -> Result<(Contract, bool), TypedError> {
    let found = pick(layers, |f| f.contract.as_ref());
    let port = pick(layers, |f| f.port.as_ref());
    let contract = found.as_ref().map_or("auto", |f| f.value.as_str());
    let invoke = pick(layers, |f| f.invoke.as_ref());
    if let Some(invoke) = invoke
        .as_ref()
        .filter(|invoke| contract != "lambda" && in_first(layers, invoke))
    {
        return Err(invoke
            .refuse(format!("`invoke` means nothing with contract = {contract:?}"), "")
            .help("set contract = \"lambda\" if the function is one for AWS Lambda"));
    }
    match contract {
        "auto" | "http" => match port {
            // A port in [defaults] is for those functions that want one; in the function's own manifest it is a mistake.
            Some(port) if in_first(layers, &port) => Err(port
                .refuse(format!("`port` means nothing with contract = {contract:?}"), "")
                .help("set contract = \"port\" if the function listens on $PORT itself")),
            _ => Ok((Contract::Http, contract == "auto")),
        },
        "stdio" => Ok((Contract::Stdio, false)),
        "cgi" => Ok((Contract::Cgi, false)),
        "ironhttp" => Ok((Contract::Ironhttp, false)),
        "fn" => Ok((Contract::Fn, false)),
        "port" => {
            // Below 1024 it would need a privilege that no function has.
            let port = number(layers, |f| f.port.as_ref(), 1024..=65535, u64::from(DEFAULT_PORT))?;
            let port = u16::try_from(port).expect("the range was checked");
            Ok((Contract::Port(port), false))
        }
        "lambda" => match port {
            Some(port) if in_first(layers, &port) => {
                Err(port.refuse("`port` means nothing with contract = \"lambda\"", ""))
            }
            _ => Ok((
                Contract::Lambda {
                    invoke: invoke.is_some_and(|invoke| *invoke.value),
                },
                false,
            )),
        },
        other => {
            let found = found.expect("the default is \"auto\"");
            let use_one =
                "use \"auto\", \"http\", \"port\", \"lambda\", \"stdio\", \"cgi\", \"ironhttp\" or \"fn\"";
            let label = error::nearest(other, &CONTRACTS).map(|near| format!("did you mean {near:?}?"));
            let label = label.unwrap_or_else(|| use_one.into());
            Err(found.refuse(format!("unknown contract {other:?}"), label))
        }
    }
}

/// Which requests are sent over HTTP/2.
pub(super) fn h2c(layers: Layers<'_>, contract: Contract, is_auto: bool) -> Result<H2c, TypedError> {
    let Some(found) = pick(layers, |f| f.h2c.as_ref()) else {
        return Ok(H2c::default());
    };
    if !is_auto && !contract.takes_h2c() && in_first(layers, &found) {
        let why = format!("`h2c` means nothing with contract = {:?}", contract.as_str());
        return Err(found
            .refuse(why, "")
            .help("only the contracts \"http\" and \"port\" can be spoken over HTTP/2"));
    }
    Ok(match found.value {
        true => H2c::Always,
        false => H2c::Never,
    })
}

fn mode(layers: Layers<'_>) -> Result<Mode, TypedError> {
    match pick(layers, |f| f.stdio.mode.as_ref()) {
        None => Ok(Mode::default()),
        Some(found) => match found.value.as_str() {
            "classic" => Ok(Mode::Classic),
            "streaming" => Ok(Mode::Streaming),
            "serializing" => Ok(Mode::Serializing),
            other => Err(found.refuse(
                format!("unknown mode {other:?}"),
                "use \"classic\", \"streaming\" or \"serializing\"",
            )),
        },
    }
}

pub(super) fn stdio(layers: Layers<'_>, contract: Contract, is_auto: bool) -> Result<Stdio, TypedError> {
    let content_type = pick(layers, |f| f.stdio.content_type.as_ref());
    if let Some(found) = &content_type
        && http::HeaderValue::try_from(found.value.as_str()).is_err()
    {
        return Err(found.refuse(
            format!("{:?} can't be the value of a header", found.value),
            "a media type such as \"text/plain\"",
        ));
    }
    let is_stdio = contract == Contract::Stdio || is_auto;
    if let Some(found) =
        pick(layers, |f| f.stdio.mode.as_ref()).filter(|found| !is_stdio && in_first(layers, found))
    {
        return Err(found
            .refuse(
                format!(
                    "`stdio.mode` means nothing with contract = {:?}",
                    contract.as_str()
                ),
                "",
            )
            .help("set contract = \"stdio\", or remove it"));
    }
    Ok(Stdio {
        mode: mode(layers)?,
        content_type: content_type.map(|found| found.value.clone()),
        output: size(layers, |f| f.stdio.output.as_ref(), 1 << 10..=1 << 30, 4 << 20)?,
    })
}

pub(super) fn concurrency(layers: Layers<'_>, contract: Contract) -> Result<u64, TypedError> {
    let is_lambda = matches!(contract, Contract::Lambda { .. });
    let usual = if is_lambda {
        AsLambda::CONCURRENCY.into()
    } else {
        64
    };
    let typed = number(layers, |f| f.scale.concurrency.as_ref(), 1..=65_535, usual)?;
    if !contract.is_one_at_a_time() {
        return Ok(typed);
    }
    match pick(layers, |f| f.scale.concurrency.as_ref()) {
        // One in [defaults] is for those functions that can.
        Some(found) if typed > 1 && in_first(layers, &found) => Err(found
            .refuse(
                format!(
                    "a process of contract {:?} answers one request at a time",
                    contract.as_str()
                ),
                "",
            )
            .help("remove it; `scale.max` says how many processes there may be")),
        Some(_) | None => Ok(1),
    }
}
