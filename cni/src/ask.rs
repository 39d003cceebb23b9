//! One question to control, within a limit of time.

use std::error::Error;

use control_api::{connect::connect_control, limits, node::CniRequest};
use tokio::time::timeout;

use crate::{network::Network, printed::Failure};

/// Control is away, or has not answered: for STATUS.
const NOT_AVAILABLE: u32 = 50;

/// Control is away, or has not answered: for all other verbs.
const TRY_AGAIN: u32 = 11;

/// Asks control and returns what is to be printed.
pub(crate) fn ask(network: &Network, request: CniRequest) -> Result<Vec<u8>, Failure> {
    let (code, limit) = match &*request.command {
        "STATUS" => (NOT_AVAILABLE, limits::PLUGIN_STATUS),
        "ADD" => (TRY_AGAIN, limits::PLUGIN_ADD),
        _ => (TRY_AGAIN, limits::PLUGIN_OTHER),
    };
    let failure = |message: &str| Failure::new(code, message).in_version(&network.version);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start", &error).in_version(&network.version))?;
    // Within the runtime: a timer needs one.
    let answer = runtime.block_on(async { timeout(limit, call(network, request)).await });
    let response = answer
        .map_err(|_| {
            let seconds = limit.as_secs();
            failure(&format!("vrouter-control has not answered within {seconds} s; see its log"))
        })?
        .map_err(|error| failure("vrouter-control cannot be asked").with_details(&*error))?;
    match response.error {
        None => Ok(response.result),
        Some(error) => Err(Failure::new(error.code, &error.message)
            .in_version(&network.version)
            .with_text(error.details)),
    }
}

async fn call(
    network: &Network,
    request: CniRequest,
) -> Result<control_api::node::CniResponse, Box<dyn Error>> {
    let mut control = connect_control(&network.socket).await?;
    // Not the status's own words, which are gRPC's: its message is what was said.
    let answer = control.cni(request).await;
    Ok(answer.map_err(|status| status.message().to_owned())?.into_inner())
}
