//! SASL exchanges: PLAIN and LOGIN as a server, XOAUTH2, OAUTHBEARER and PLAIN as a client.
