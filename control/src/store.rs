//! What this node has promised: attachments and their addresses, on disk.
//!
//! Each method is one transaction: after a crash at any moment it has happened or it has not. The
//! callers' order does the rest: a record is written before what it names is made, and removed
//! after that is gone. So a crash leaves a record without an interface, which the next start
//! cleans up, but never an interface or an address in use without a record.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::{
    attachment::{Attachment, AttachmentKey, Phase},
    ipam::{AddressPlan, AllocateError},
    mac::MacAddress,
};

/// The file within the state folder.
pub const FILE_NAME: &str = "control.redb";

/// Attachments as JSON, by key.
const ATTACHMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("attachments");

/// The key of the attachment that has an address, by the address's bytes.
const ADDRESSES: TableDefinition<&[u8], &str> = TableDefinition::new("addresses");

/// The address given last, by range.
const LAST_GIVEN: TableDefinition<&str, &[u8]> = TableDefinition::new("last_given");

/// Layout of the tables above; a later one brings its own way up from this.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const LAYOUT_KEY: &str = "layout";
const LAYOUT: u64 = 1;

/// The node's database.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum StoreError {
    #[error("cannot create the state folder {folder}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error(
        "cannot open the database {path}: if it is damaged, drain the node, remove the file and \
         start again"
    )]
    Open {
        path: PathBuf,
        #[source]
        source: Box<redb::DatabaseError>,
    },

    #[error("the database {path} has layout {found}, this program knows {known}: use its version")]
    Layout { path: PathBuf, found: u64, known: u64 },

    #[error("cannot read or write the database: is there room on its disk?")]
    Database(#[source] Box<redb::Error>),

    #[error("control is stopping")]
    Interrupted,

    #[error("the record of attachment {key} cannot be read: delete its pod, whose DEL removes it")]
    Record {
        key: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Why an attachment was not recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum BeginError {
    #[error("{0} is attached already; DEL it first")]
    Exists(AttachmentKey),

    #[error("the port {port} belongs to container {} still; DEL it first", holder.container_id)]
    PortHeld { port: String, holder: AttachmentKey },

    #[error(transparent)]
    Allocate(#[from] AllocateError),

    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl Store {
    /// Opens the database in `folder`, with the folder, or makes an empty one.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be made, the file is damaged, in use or of a later layout.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::Folder { folder: folder.to_owned(), source })?;
        let path = folder.join(FILE_NAME);
        let database = Database::create(&path)
            .map_err(|source| StoreError::Open { path: path.clone(), source: Box::new(source) })?;
        let transaction = database.begin_write()?;
        let found = {
            transaction.open_table(ATTACHMENTS)?;
            transaction.open_table(ADDRESSES)?;
            transaction.open_table(LAST_GIVEN)?;
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(LAYOUT_KEY)?.map_or(LAYOUT, |layout| layout.value());
            meta.insert(LAYOUT_KEY, found)?;
            found
        };
        transaction.commit()?;
        if found != LAYOUT {
            return Err(StoreError::Layout { path, found, known: LAYOUT });
        }
        Ok(Self { database, path })
    }

    /// The database's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All attachments, by key, but for those whose record cannot be read: one bad record must
    /// not stop the others.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub fn attachments(&self) -> Result<BTreeMap<AttachmentKey, Attachment>, StoreError> {
        let transaction = self.database.begin_read()?;
        Ok(decode_all(&transaction.open_table(ATTACHMENTS)?)?.good)
    }

    /// The attachments whose record cannot be read.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub fn unreadable(&self) -> Result<Vec<Unreadable>, StoreError> {
        let transaction = self.database.begin_read()?;
        Ok(decode_all(&transaction.open_table(ATTACHMENTS)?)?.bad)
    }

    /// One attachment, if there is a record of it.
    ///
    /// # Errors
    ///
    /// Fails if the database or that record cannot be read.
    pub fn attachment(&self, key: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        let key = key.to_string();
        let transaction = self.database.begin_read()?;
        let value = transaction.open_table(ATTACHMENTS)?.get(&*key)?;
        value.map(|value| decode(&key, value.value())).transpose()
    }

    /// Records a new attachment in the phase [`Phase::Adding`] and gives it its addresses.
    ///
    /// The addresses and, unless the runtime asked for one, the MAC address are filled in here,
    /// but for an attachment with a delegate, whose plugin is yet to be asked.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if the attachment or its port exists, or no address is left.
    pub fn begin(
        &self,
        mut attachment: Attachment,
        requested: &[IpAddr],
        plan: &AddressPlan,
    ) -> Result<Attachment, BeginError> {
        let key = attachment.key.to_string();
        // One writer at a time: what is read from here on stays true until the commit.
        let transaction = self.database.begin_write().map_err(StoreError::from)?;
        let records = decode_all(&transaction.open_table(ATTACHMENTS).map_err(StoreError::from)?)?;
        if let Some(bad) = records.bad.into_iter().find(|bad| bad.key == attachment.key) {
            return Err(bad.error.into());
        }
        for (other, record) in records.good {
            if other == attachment.key {
                return Err(BeginError::Exists(other));
            }
            if record.port() == attachment.port() {
                return Err(BeginError::PortHeld { port: record.port(), holder: other });
            }
        }
        if attachment.delegate.is_none() {
            let mut addresses = transaction.open_table(ADDRESSES).map_err(StoreError::from)?;
            let mut last = transaction.open_table(LAST_GIVEN).map_err(StoreError::from)?;
            let chosen = plan.choose(
                &attachment.pod,
                requested,
                |address| Some(addresses.get(&*octets(address)).ok()??.value().to_owned()),
                |range| parse(last.get(&*range.to_string()).ok()??.value()),
            )?;
            for address in &chosen {
                claim(&mut addresses, *address, &key)?;
                if let Some(range) = plan.ranges.iter().find(|range| range.contains(*address)) {
                    last.insert(&*range.to_string(), &*octets(*address))
                        .map_err(StoreError::from)?;
                }
            }
            attachment.mac = attachment.mac.or_else(|| MacAddress::from_preferred(&chosen));
            attachment.addresses = chosen;
        }
        put(&transaction, &attachment)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(attachment)
    }

    /// Records the addresses that an IPAM plugin gave.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if another attachment has one of them.
    pub fn give(&self, attachment: &Attachment) -> Result<(), BeginError> {
        let transaction = self.database.begin_write().map_err(StoreError::from)?;
        {
            let mut addresses = transaction.open_table(ADDRESSES).map_err(StoreError::from)?;
            for address in &attachment.addresses {
                claim(&mut addresses, *address, &attachment.key.to_string())?;
            }
        }
        put(&transaction, attachment)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(())
    }

    /// Records that an attachment has come to `phase`. Nothing happens if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be written.
    pub fn set_phase(&self, key: &AttachmentKey, phase: Phase) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        let found = {
            let table = transaction.open_table(ATTACHMENTS)?;
            let value = table.get(&*key.to_string())?;
            value.map(|value| decode(&key.to_string(), value.value())).transpose()?
        };
        if let Some(found) = found {
            put(&transaction, &Attachment { phase, ..found })?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes an attachment's record and frees its addresses. Nothing happens if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be written.
    pub fn remove(&self, key: &AttachmentKey) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        {
            let key = key.to_string();
            transaction.open_table(ATTACHMENTS)?.remove(&*key)?;
            let mut addresses = transaction.open_table(ADDRESSES)?;
            addresses.retain(|_, holder| holder != key)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn claim(
    addresses: &mut Table<'_, &[u8], &str>,
    address: IpAddr,
    key: &str,
) -> Result<(), BeginError> {
    let before = addresses.insert(&*octets(address), key).map_err(StoreError::from)?;
    match before.map(|holder| holder.value().to_owned()) {
        Some(holder) if holder != key => Err(AllocateError::InUse { address, holder }.into()),
        _ => Ok(()),
    }
}

fn put(transaction: &redb::WriteTransaction, attachment: &Attachment) -> Result<(), StoreError> {
    let key = attachment.key.to_string();
    let value = serde_json::to_vec(attachment)
        .map_err(|source| StoreError::Record { key: key.clone(), source })?;
    transaction.open_table(ATTACHMENTS)?.insert(&*key, &*value)?;
    Ok(())
}

/// The records of a table: those that can be read, and the others.
#[derive(Default)]
struct Records {
    good: BTreeMap<AttachmentKey, Attachment>,
    bad: Vec<Unreadable>,
}

/// An attachment whose record cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Which one: its key stands beside the record.
    pub key: AttachmentKey,
    /// The CNI network that it belongs to, if the record tells at least that.
    pub network: Option<String>,
    /// Why it cannot be read.
    pub error: StoreError,
}

fn decode_all(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Records, StoreError> {
    let mut records = Records::default();
    for entry in table.iter()? {
        let (key, value) = entry?;
        match decode(key.value(), value.value()) {
            Ok(attachment) => {
                records.good.insert(attachment.key.clone(), attachment);
            }
            Err(error) => records.bad.push(Unreadable {
                key: AttachmentKey::from_text(key.value()),
                network: network(value.value()),
                error,
            }),
        }
    }
    Ok(records)
}

fn decode(key: &str, value: &[u8]) -> Result<Attachment, StoreError> {
    serde_json::from_slice(value)
        .map_err(|source| StoreError::Record { key: key.to_owned(), source })
}

/// The network that a record of any version names.
fn network(value: &[u8]) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(value).ok()?;
    Some(record.get("network")?.as_str()?.to_owned())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn parse(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

#[cfg(test)]
mod tests;
