use bytes::Bytes;
use jiff::Timestamp;

use crate::dialect::Dialect;
use crate::response::{ContentKind, ItemResponse};

/// Returns the names of an item's headers in their order.
fn names(token_left: Option<u32>) -> Vec<String> {
    let protocol = Dialect::Ec2.protocol();
    let headers = protocol.item_headers(Some(Timestamp::UNIX_EPOCH));
    let item = ItemResponse { body: Bytes::new(), kind: ContentKind::Text, headers, token_left };
    protocol.item_response(item).headers().keys().map(ToString::to_string).collect()
}

#[test]
fn headers_of_an_item_have_the_same_order_with_and_without_a_token() {
    let others = ["content-type", "accept-ranges", "last-modified", "server"];
    assert_eq!(names(None), others);
    assert_eq!(names(Some(60)), [&["x-aws-ec2-metadata-token-ttl-seconds"][..], &others].concat());
}
