//! Errors as `google.rpc.Status`, with each kind of detail that goes with one.
//!
//! The sentences are in the bytes too. Where no more than a sentence is put better, its case may be taken anew; codes,
//! reasons, and the keys and values of facts have to stay.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_core::{Epoch, ItemRejection, ObjectKind, Rejection};
use berth_proto::error::{ApiError, FieldViolation, LeaderHint, from_status_bytes};
use prost::Message;
use tonic_types::pb;

use crate::{Golden, check, from_hex, text};

/// A `google.rpc.ErrorInfo` whose facts are written in an order: those of the library's own come in any.
#[derive(Clone, PartialEq, prost::Message)]
struct OrderedInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

const INFO_TYPE: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The status's bytes, with the facts in their order.
fn ordered(bytes: &[u8]) -> Vec<u8> {
    let mut status = pb::Status::decode(bytes).unwrap();
    for detail in status.details.iter_mut().filter(|detail| detail.type_url == INFO_TYPE) {
        detail.value = OrderedInfo::decode(detail.value.as_slice()).unwrap().encode_to_vec();
    }
    status.encode_to_vec()
}

fn hub_unknown() -> Rejection {
    Rejection::Unknown { kind: ObjectKind::Hub, name: text("h.example") }
}

fn errors() -> [(&'static str, ApiError, &'static str); 7] {
    [
        (
            "bad request",
            ApiError::Invalid(vec![
                FieldViolation { field: text("items[3].device_id"), problem: text("is empty") },
                FieldViolation { field: text("page_size"), problem: text("10001; at most 10000") },
            ]),
            "080312296974656d735b335d2e6465766963655f69643a20697320656d7074792028616e642031206d6f7265291a\
             5a0a28747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e4572726f72496e666f122e0a\
             10494e56414c49445f415247554d454e54120962657274682e6465761a0f0a0a76696f6c6174696f6e731201321a\
             700a29747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e426164526571756573741243\
             0a1e0a126974656d735b335d2e6465766963655f69641208697320656d7074790a210a09706167655f73697a6512\
             1431303030313b206174206d6f7374203130303030",
        ),
        (
            "reason and facts alone",
            ApiError::Rejected(Rejection::EpochMismatch {
                device: text("d-1"),
                expected: Epoch(6),
                actual: Epoch(7),
            }),
            "080a12436465766963652060642d31602069732061742065706f636820372c206e6f7420363b206c6f6f6b206974\
             20757020616761696e20616e642064656369646520616e65771a720a28747970652e676f6f676c65617069732e63\
             6f6d2f676f6f676c652e7270632e4572726f72496e666f12460a0e45504f43485f4d49534d415443481209626572\
             74682e6465761a0b0a0661637475616c1201371a0d0a066465766963651203642d311a0d0a086578706563746564\
             120136",
        ),
        (
            "resource info",
            ApiError::Rejected(hub_unknown()),
            "080512416875622060682e6578616d706c6560206973206e6f74206b6e6f776e3b20637265617465206974206669\
             727374206f7220636f727265637420746865206e616d651a640a28747970652e676f6f676c65617069732e636f6d\
             2f676f6f676c652e7270632e4572726f72496e666f12380a0b4855425f554e4b4e4f574e120962657274682e6465\
             761a0b0a046b696e6412036875621a110a046e616d651209682e6578616d706c651a8c010a2b747970652e676f6f\
             676c65617069732e636f6d2f676f6f676c652e7270632e5265736f75726365496e666f125d0a0d62657274682e64\
             65762f6875621209682e6578616d706c6522416875622060682e6578616d706c6560206973206e6f74206b6e6f77\
             6e3b20637265617465206974206669727374206f7220636f727265637420746865206e616d65",
        ),
        (
            "precondition failure",
            ApiError::SnapshotExpired { revision: 77 },
            "0809124e74686520736e617073686f74206174207265766973696f6e203737206973206e6f206c6f6e6765722068\
             656c643b20737461727420616761696e2066726f6d2074686520666972737420706167651a590a28747970652e67\
             6f6f676c65617069732e636f6d2f676f6f676c652e7270632e4572726f72496e666f122d0a10534e415053484f54\
             5f45585049524544120962657274682e6465761a0e0a087265766973696f6e120237371a9a010a32747970652e67\
             6f6f676c65617069732e636f6d2f676f6f676c652e7270632e507265636f6e646974696f6e4661696c7572651264\
             0a620a10534e415053484f545f455850495245441a4e74686520736e617073686f74206174207265766973696f6e\
             203737206973206e6f206c6f6e6765722068656c643b20737461727420616761696e2066726f6d20746865206669\
             7273742070616765",
        ),
        (
            "quota failure and retry info",
            ApiError::Overloaded {
                what: text("writes"),
                limit: 64,
                retry_after: Duration::from_millis(1_020),
            },
            "0808123b746f6f206d756368206174206f6e63653a2077726974657320286174206d6f7374203634293b20747279\
             20616761696e20696e2031303230206d731a350a28747970652e676f6f676c65617069732e636f6d2f676f6f676c\
             652e7270632e5265747279496e666f12090a0708011080dac4091a740a2b747970652e676f6f676c65617069732e\
             636f6d2f676f6f676c652e7270632e51756f74614661696c75726512450a430a046e6f6465123b746f6f206d7563\
             68206174206f6e63653a2077726974657320286174206d6f7374203634293b2074727920616761696e20696e2031\
             303230206d731a780a28747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e4572726f72\
             496e666f124c0a0a4f5645524c4f41444544120962657274682e6465761a0b0a056c696d6974120236341a160a0e\
             72657472795f61667465725f6d731204313032301a0e0a04776861741206777269746573",
        ),
        (
            "retry info of no time",
            ApiError::NotLeader {
                leader: Some(LeaderHint { node_id: 2, name: text("b"), address: text("127.0.0.1:7002") }),
            },
            "080e123f74686973206e6f6465206973206e6f7420746865206c65616465723b2061736b206e6f64652032202860\
             626029206174203132372e302e302e313a373030321a2e0a28747970652e676f6f676c65617069732e636f6d2f67\
             6f6f676c652e7270632e5265747279496e666f12020a001a87010a28747970652e676f6f676c65617069732e636f\
             6d2f676f6f676c652e7270632e4572726f72496e666f125b0a0a4e4f545f4c4541444552120962657274682e6465\
             761a200a0e6c65616465725f61646472657373120e3132372e302e302e313a373030321a0e0a096c65616465725f\
             69641201321a100a0b6c65616465725f6e616d65120162",
        ),
        (
            "refused items",
            ApiError::BatchRefused {
                refused: 1,
                items: vec![ItemRejection { index: 3, rejection: hub_unknown() }],
            },
            "080512900131206f66207468652062617463682773206974656d732061726520726566757365642c207468652066\
             6972737420617420696e64657820333a206875622060682e6578616d706c6560206973206e6f74206b6e6f776e3b\
             20637265617465206974206669727374206f7220636f727265637420746865206e616d653b206e6f7468696e6720\
             776173207772697474656e1ab0010a28747970652e676f6f676c65617069732e636f6d2f676f6f676c652e727063\
             2e4572726f72496e666f1283010a0d42415443485f52454655534544120962657274682e6465761a100a0b697465\
             6d305f696e6465781201331a110a0a6974656d305f6b696e6412036875621a170a0a6974656d305f6e616d651209\
             682e6578616d706c651a1b0a0c6974656d305f726561736f6e120b4855425f554e4b4e4f574e1a0c0a0772656675\
             7365641201311add010a2b747970652e676f6f676c65617069732e636f6d2f676f6f676c652e7270632e5265736f\
             75726365496e666f12ad010a0d62657274682e6465762f6875621209682e6578616d706c6522900131206f662074\
             68652062617463682773206974656d732061726520726566757365642c2074686520666972737420617420696e64\
             657820333a206875622060682e6578616d706c6560206973206e6f74206b6e6f776e3b2063726561746520697420\
             6669727374206f7220636f727265637420746865206e616d653b206e6f7468696e6720776173207772697474656e",
        ),
    ]
}

#[test]
fn statuses_with_their_details() {
    let cases: Vec<Golden> = errors()
        .iter()
        .map(|(name, error, hex)| {
            Golden::new(name, ordered(tonic::Status::from(error.clone()).details()), hex)
        })
        .collect();
    check(&cases);
    for (name, error, hex) in errors() {
        let bytes = from_hex(hex);
        assert_eq!(from_status_bytes(&bytes), Some(error), "{name}");
        assert_eq!(ordered(&bytes), bytes, "{name}: nothing of it is lost");
    }
}
