//! One batch: collected from its stream within a bound, checked object by object, and given to the
//! engine as a whole.

use control_api::engine::{ApplyRequest, apply_request::Part};
use tonic::{Status, Streaming};
use vrouter::{
    config::{self, Batch, Problem},
    engine::ApplyError,
};

/// Objects of a batch at most: twice the largest number of routes that the engine is tested with,
/// and room for the rest. A parsed object takes some 200 bytes, so a batch never holds more than
/// about 500 MiB.
pub(crate) const BATCH_OBJECTS_MAX: usize = 2_500_000;

/// Reads a batch up to the end of its stream.
///
/// # Errors
///
/// Fails if the stream breaks off, does not begin with a header, has more objects than
/// [`BATCH_OBJECTS_MAX`], or an object is not possible by itself.
pub(super) async fn collect(mut stream: Streaming<ApplyRequest>) -> Result<Batch, Status> {
    let Some(Part::Header(header)) = next_part(&mut stream).await? else {
        return Err(Status::invalid_argument("the first message of Apply must be its header"));
    };
    let mut batch = Batch::new(header.generation, header.full_sync);
    let mut count = 0_usize;
    while let Some(part) = next_part(&mut stream).await? {
        let Part::Objects(objects) = part else {
            return Err(Status::invalid_argument("a second header; one Apply is one batch"));
        };
        count = count.saturating_add(objects.upserts.len()).saturating_add(objects.deletes.len());
        if count > BATCH_OBJECTS_MAX {
            return Err(Status::resource_exhausted(format!(
                "the batch has more than {BATCH_OBJECTS_MAX} objects; send it in several"
            )));
        }
        batch.push(objects).map_err(|error| refused(&error))?;
    }
    Ok(batch)
}

async fn next_part(stream: &mut Streaming<ApplyRequest>) -> Result<Option<Part>, Status> {
    match stream.message().await? {
        None => Ok(None),
        Some(ApplyRequest { part: Some(part) }) => Ok(Some(part)),
        Some(ApplyRequest { part: None }) => {
            Err(Status::invalid_argument("a message of Apply without a header and without objects"))
        }
    }
}

/// What a batch's failure is in gRPC's terms.
pub(super) fn failed(error: &ApplyError) -> Status {
    match error {
        ApplyError::Batch(error) => refused(error),
        // The batch is published, so control may send the same again.
        ApplyError::Worker(late) => Status::deadline_exceeded(late.to_string()),
        other => Status::internal(other.to_string()),
    }
}

fn refused(error: &config::ApplyError) -> Status {
    let message = error.to_string();
    match error.problem {
        Problem::NoSuch { .. } | Problem::NotThere => Status::not_found(message),
        Problem::Taken { .. } => Status::already_exists(message),
        Problem::InUse { .. } | Problem::GenerationNotGreater { .. } => {
            Status::failed_precondition(message)
        }
        Problem::TooMany { .. } => Status::resource_exhausted(message),
        _ => Status::invalid_argument(message),
    }
}
