//! The size of a compiled pod. The operator and the agent hold it in memory and send it as one line of JSON.

use std::io::{self, Write};

use crate::item::ItemPath;
use crate::workload::{ItemValue, MAX_WORKLOAD_BYTES, UserData, Workload};

/// Returns the field of the profile with the most data if the JSON of a workload is longer than [`MAX_WORKLOAD_BYTES`].
pub(super) fn largest_field_if_too_large(workload: &Workload) -> Option<&'static str> {
    serde_json::to_writer(Budget(MAX_WORKLOAD_BYTES), workload).is_err().then(|| largest_field(workload))
}

fn largest_field(workload: &Workload) -> &'static str {
    let item = |(path, value): &(ItemPath, ItemValue)| match value {
        ItemValue::Text(text) => path.as_str().len() + text.as_str().len(),
        ItemValue::PodIp | ItemValue::PodIps => path.as_str().len(),
    };
    let parts = || workload.dialects.values();
    let items = parts().flat_map(|part| &part.items).map(item).sum::<usize>();
    let tags = parts().flat_map(|part| &part.tags).map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let keys = workload.instance.public_keys.iter().map(|key| key.open_ssh_key.as_str().len()).sum::<usize>();
    let user_data = match &workload.instance.user_data {
        Some(UserData::Bytes(bytes)) => bytes.len(),
        Some(UserData::Secret(_)) | None => 0,
    };
    let fields =
        [("spec.metadata", items), ("spec.tags", tags), ("spec.publicKeys", keys), ("spec.userData", user_data)];
    fields.into_iter().max_by_key(|(_, size)| *size).map_or("spec", |(field, _)| field)
}

/// A writer that keeps nothing and fails after this number of bytes.
struct Budget(usize);

impl Write for Budget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
