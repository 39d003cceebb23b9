//! `vrctl attachments`.

use control_api::node::{Attachment, ListAttachmentsRequest};
use serde::Serialize;

use crate::{
    address,
    exit::Failure,
    peer::{CONTROL, Peers},
    print::{Printer, Row},
    table::{Column, text},
};

/// Characters of a container id that are shown to people, as container runtimes do.
const CONTAINER_ID_SHOWN: usize = 13;

/// Lists what control has attached.
///
/// # Errors
///
/// Fails if control cannot be asked.
pub(crate) async fn run(peers: &Peers, printer: &mut Printer) -> Result<(), Failure> {
    let mut control = peers.control().await?;
    let attachments = control.list_attachments(ListAttachmentsRequest {});
    let attachments = peers.rows(CONTROL, attachments).await?;
    let mut rows: Vec<_> = attachments.into_iter().map(AttachmentRow::from).collect();
    rows.sort_by(|a, b| (&a.pod, &a.ifname).cmp(&(&b.pod, &b.ifname)));
    printer.list(&rows)
}

/// An interface in a container.
#[derive(Debug, Serialize)]
struct AttachmentRow {
    /// `namespace/name`; none for a container that is no pod.
    pod: Option<String>,
    container_id: String,
    ifname: String,
    netns: String,
    addresses: Vec<String>,
    mac: Option<String>,
    host_interface: Option<String>,
    port_type: Option<String>,
    state: String,
}

impl From<Attachment> for AttachmentRow {
    fn from(attachment: Attachment) -> Self {
        let is_pod = !attachment.pod_name.is_empty();
        Self {
            pod: is_pod.then(|| format!("{}/{}", attachment.pod_namespace, attachment.pod_name)),
            container_id: attachment.container_id,
            ifname: attachment.ifname,
            netns: attachment.netns,
            addresses: attachment.addresses,
            mac: address::optional(attachment.mac),
            host_interface: address::optional(attachment.host_interface),
            port_type: address::optional(attachment.port_type),
            state: attachment.state,
        }
    }
}

impl Row for AttachmentRow {
    const COLUMNS: &'static [Column] = &[
        text("POD"),
        text("CONTAINER"),
        text("INTERFACE"),
        text("ADDRESSES"),
        text("MAC"),
        text("TYPE"),
        text("HOST INTERFACE"),
        text("STATE"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.pod.clone().unwrap_or_default(),
            self.container_id.chars().take(CONTAINER_ID_SHOWN).collect(),
            self.ifname.clone(),
            self.addresses.join(","),
            self.mac.clone().unwrap_or_default(),
            self.port_type.clone().unwrap_or_default(),
            self.host_interface.clone().unwrap_or_default(),
            self.state.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("attachments", &AttachmentRow::from(Attachment::default()));
    }
}
