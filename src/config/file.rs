//! The mirror of the file: every key of the contract, once, with the type of its value.
//!
//! Nothing is judged here but the value's own form; defaults, presets and what keys mean together
//! are in `check`. `config/gatepost.toml` and `docs/configuration.md` name the same keys; a test
//! compares.

use std::{path::PathBuf, time::Duration};

use figment::value::Value;
use ipnet::IpNet;
use jiff::civil::Date;
use url::Url;

use super::{
    field::{Field, Listed, Named, Part, Place, Reader},
    leaf::{
        AboveMax, BounceTo, CommandLine, DeliveryContract, Embedded, Hidden, Mechanism, TcpAddress,
        Way,
    },
    secret_source::{ProxySource, SecretSource},
    units::ByteSize,
};
use crate::{
    delivery,
    mail::Address,
    oauth::{Algorithm, ClientAuthentication, Grant, Kind, preset::Cloud},
    submission, telemetry,
};

/// A section: a field a key.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $part:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name {
            $(pub(super) $key: $part,)*
        }

        impl Part for $name {
            fn read(value: Option<&Value>, at: &Place, reader: &mut Reader<'_>) -> Self {
                let known = [$(stringify!($key)),*];
                let table = reader.table(value, at, &known);
                let get = |key: &str| table.and_then(|table| table.get(key));
                Self {
                    $($key: Part::read(get(stringify!($key)), &at.key(stringify!($key)), reader),)*
                }
            }
        }
    };
}

section! {
    /// The whole file.
    File {
        state_dir: Field<PathBuf>,
        hostname: Field<String>,
        default_account: Field<String>,
        store: Store,
        listener: Listed<Listener>,
        client: Listed<Client>,
        provider: Named<Provider>,
        account: Named<Account>,
        route: Listed<Route>,
        queue: Queue,
        trace: Trace,
        console: Console,
        metrics: Metrics,
        notify: Notify,
        log: Log,
    }
}

section! {
    /// `[store]`
    #[expect(dead_code, reason = "url has one value so far; it is read for its form")]
    Store {
        url: Field<Embedded>,
        key: Field<SecretSource>,
    }
}

section! {
    /// `[[listener]]`
    Listener {
        address: Field<submission::Address>,
        tls: Field<submission::Tls>,
        certificate_file: Field<PathBuf>,
        key_file: Field<PathBuf>,
        auth: Field<submission::Auth>,
        auth_without_tls: Field<submission::AuthWithoutTls>,
        allow: Field<Vec<IpNet>>,
        delivery: Field<DeliveryContract>,
        hybrid_wait: Field<Duration>,
        line_endings: Field<submission::LineEndings>,
        long_lines: Field<submission::LongLines>,
        hide_client_address: Field<bool>,
        max_message_size: Field<ByteSize>,
        max_recipients: Field<u32>,
        max_connections: Field<u32>,
        max_connections_per_client: Field<u32>,
        proxy_protocol_from: Field<Vec<IpNet>>,
    }
}

section! {
    /// `[[client]]`
    Client {
        name: Field<String>,
        password_hash: Field<Hidden>,
        account: Field<String>,
        senders: Field<Vec<String>>,
        disabled: Field<bool>,
    }
}

section! {
    /// `[provider.NAME]`
    Provider {
        kind: Field<Kind>,
        description: Field<String>,
        tenant: Field<String>,
        cloud: Field<Cloud>,
        client_id: Field<String>,
        client_secret: Field<SecretSource>,
        client_secret_expires: Field<Date>,
        client_certificate_file: Field<PathBuf>,
        client_key_file: Field<PathBuf>,
        issuer: Field<String>,
        client_key_password: Field<SecretSource>,
        client_assertion_algorithm: Field<Algorithm>,
        federated_token_file: Field<PathBuf>,
        service_account_file: Field<PathBuf>,
        authorization_url: Field<Url>,
        token_url: Field<Url>,
        device_authorization_url: Field<Url>,
        redirect_url: Field<Url>,
        scope: Field<String>,
        ca_file: Field<PathBuf>,
        proxy: Field<ProxySource>,
        client_authentication: Field<ClientAuthentication>,
    }
}

section! {
    /// `[account.NAME]`
    Account {
        provider: Field<String>,
        mailbox: Field<Address>,
        sign_in_user: Field<String>,
        grant: Field<Grant>,
        transport: Field<Way>,
        fallback: Field<String>,
        smtp: Smtp,
        graph: Graph,
        gmail: Gmail,
        limits: Limits,
        sender: Sender,
    }
}

section! {
    /// `[account.NAME.smtp]`
    Smtp {
        host: Field<String>,
        port: Field<u32>,
        tls: Field<delivery::Tls>,
        auth: Field<Mechanism>,
        username: Field<String>,
        password: Field<SecretSource>,
        ca_file: Field<PathBuf>,
    }
}

section! {
    /// `[account.NAME.graph]`
    Graph {
        url: Field<Url>,
        user: Field<String>,
        mime_max: Field<ByteSize>,
        above_mime_max: Field<AboveMax>,
        save_to_sent_items: Field<bool>,
    }
}

section! {
    /// `[account.NAME.gmail]`
    Gmail {
        url: Field<Url>,
        mime_max: Field<ByteSize>,
    }
}

section! {
    /// `[account.NAME.limits]`
    Limits {
        connections: Field<u32>,
        messages_per_minute: Field<u32>,
        recipients_per_day: Field<u32>,
        recipients_per_message: Field<u32>,
    }
}

section! {
    /// `[account.NAME.sender]`
    Sender {
        rewrite: Field<delivery::Rewrite>,
        display_name: Field<String>,
        reply_to_original: Field<bool>,
        keep: Field<Vec<String>>,
    }
}

section! {
    /// `[[route]]`
    Route {
        sender: Field<String>,
        recipient: Field<String>,
        client: Field<String>,
        listener: Field<String>,
        network: Field<IpNet>,
        account: Field<String>,
    }
}

section! {
    /// `[queue]`
    Queue {
        retry_first: Field<Duration>,
        retry_max: Field<Duration>,
        lifetime: Field<Duration>,
        delay_warning: Field<Duration>,
        bounce_to: Field<BounceTo>,
        uncertain: Field<delivery::OnUncertain>,
        bounces_per_hour: Field<u32>,
    }
}

section! {
    /// `[trace]`
    Trace {
        keep: Field<Duration>,
        size_max: Field<ByteSize>,
    }
}

section! {
    /// `[console]`
    Console {
        address: Field<TcpAddress>,
        public_url: Field<Url>,
        certificate_file: Field<PathBuf>,
        key_file: Field<PathBuf>,
        password_hash: Field<Hidden>,
    }
}

section! {
    /// `[metrics]`
    Metrics {
        address: Field<TcpAddress>,
    }
}

section! {
    /// `[notify]`
    Notify {
        webhook: Field<SecretSource>,
        command: Field<CommandLine>,
        account: Field<String>,
        to: Field<Address>,
    }
}

section! {
    /// `[log]`
    Log {
        format: Field<telemetry::log::Format>,
        level: Field<String>,
        addresses: Field<bool>,
    }
}
