//! The data behind `error`: what each refusal means and what to do about it. `ACCOUNT` stands for the
//! account's name.

use super::error::Severity;

/// Errors that no repetition mends. Whatever is not here is taken as transient: a hold on a guess
/// would stop mail that a minute's patience would have sent.
pub(super) const DEFINITE: &[(&str, Severity, &str, &str)] = &[
    (
        "invalid_grant",
        Severity::SignIn,
        "the provider no longer accepts this sign-in",
        "sign in again: gatepost login ACCOUNT",
    ),
    (
        "interaction_required",
        Severity::SignIn,
        "the provider wants the person to act (a second factor, new terms)",
        "sign in again: gatepost login ACCOUNT",
    ),
    (
        "consent_required",
        Severity::SignIn,
        "consent is missing",
        "sign in again and consent: gatepost login ACCOUNT; or have an administrator consent for the organisation",
    ),
    (
        "login_required",
        Severity::SignIn,
        "the provider wants a new sign-in",
        "sign in again: gatepost login ACCOUNT",
    ),
    (
        "invalid_client",
        Severity::Mend,
        "the provider does not accept the client's credentials",
        "compare client_id and client_secret of the provider profile with the registration",
    ),
    (
        "unauthorized_client",
        Severity::Mend,
        "this client may not use this grant",
        "allow the grant in the client's registration at the provider",
    ),
    (
        "deleted_client",
        Severity::Mend,
        "the client was deleted at the provider",
        "register a new client and put its id and secret into the provider profile",
    ),
    (
        "disabled_client",
        Severity::Mend,
        "the client is disabled at the provider",
        "enable it there, or register a new one",
    ),
    (
        "invalid_scope",
        Severity::Mend,
        "the provider does not know the scope",
        "correct scope in the provider profile",
    ),
    (
        "invalid_request",
        Severity::Mend,
        "the provider finds the request malformed",
        "check tenant, client_id, client_authentication and URLs of the provider profile",
    ),
    (
        "invalid_resource",
        Severity::Mend,
        "the provider does not know the resource that the scope names",
        "check scope, cloud and tenant of the provider profile",
    ),
    (
        "unsupported_grant_type",
        Severity::Mend,
        "the provider does not support this grant",
        "choose another grant for the account",
    ),
    (
        "redirect_uri_mismatch",
        Severity::Mend,
        "the redirect address is not registered",
        "register redirect_url of the provider profile at the provider, exactly as written",
    ),
    (
        "access_denied",
        Severity::Mend,
        "access was denied",
        "if nobody pressed cancel, look at the provider's policies and sign-in log; then: gatepost login ACCOUNT",
    ),
    (
        "authorization_declined",
        Severity::SignIn,
        "the sign-in was declined",
        "sign in again and consent: gatepost login ACCOUNT",
    ),
    (
        "expired_token",
        Severity::SignIn,
        "the code was not used in time",
        "begin again: gatepost login ACCOUNT --device",
    ),
    (
        "bad_verification_code",
        Severity::SignIn,
        "the provider does not know the device code",
        "begin again: gatepost login ACCOUNT --device",
    ),
    (
        "admin_policy_enforced",
        Severity::Mend,
        "an administrator's policy forbids it",
        "have the administrator trust this client",
    ),
    (
        "org_internal",
        Severity::Mend,
        "the client is for its own organisation's members only",
        "sign in with a mailbox of that organisation, or open the client to others",
    ),
];

/// A row of [`AADSTS`]: numbers, severity, what is wrong, what to do.
#[derive(Debug)]
pub(super) struct Row(
    pub(super) &'static [u32],
    pub(super) Severity,
    pub(super) &'static str,
    pub(super) &'static str,
);

pub(super) const AGAIN: &str = "sign in again: gatepost login ACCOUNT";

/// Microsoft's numbers (reference-error-codes), with remedies.
pub(super) const AADSTS: &[Row] = &[
    Row(
        &[7_000_222],
        Severity::Mend,
        "the client secret has expired",
        "make a new secret in the Azure portal (App registrations, Certificates & secrets) and put its value into client_secret",
    ),
    Row(
        &[7_000_215, 70_002],
        Severity::Mend,
        "the client secret is wrong",
        "put the secret's value (not its id) from the Azure portal into client_secret",
    ),
    Row(
        &[7_000_218],
        Severity::Mend,
        "the registration demands a client secret and none was sent",
        "set client_secret, or allow public client flows in the registration",
    ),
    Row(
        &[700_025],
        Severity::Mend,
        "a secret was sent for a public client",
        "set client_authentication = \"none\", or register the redirect URI under Web",
    ),
    Row(
        &[700_016, 700_011, 90_099],
        Severity::Mend,
        "the application is not known in this tenant",
        "check client_id and tenant of the provider profile",
    ),
    Row(
        &[70_001, 7_000_112],
        Severity::Mend,
        "the application is disabled",
        "enable it in the Azure portal (Enterprise applications)",
    ),
    Row(
        &[90_002, 90_038, 900_382, 900_432],
        Severity::Mend,
        "the tenant is not known in this cloud",
        "check tenant and cloud of the provider profile",
    ),
    Row(
        &[50_194],
        Severity::Mend,
        "the application is for one tenant only",
        "set tenant of the provider profile to the tenant's id",
    ),
    Row(
        &[9_002_332],
        Severity::Mend,
        "the application is not for personal accounts",
        "set tenant of the provider profile to the tenant's id",
    ),
    Row(
        &[9_001_023, 90_124, 90_130, 900_561],
        Severity::Mend,
        "this grant does not work with this tenant value",
        "set tenant of the provider profile to the tenant's id instead of common or consumers",
    ),
    Row(
        &[50_011],
        Severity::Mend,
        "the redirect address is not registered",
        "register redirect_url of the provider profile in the Azure portal, exactly as written",
    ),
    Row(
        &[50_012, 50_013, 500_133, 50_027, 700_027, 700_030, 700_229],
        Severity::Mend,
        "the client's assertion or certificate is not accepted",
        "upload the certificate to the registration, and check this machine's clock",
    ),
    Row(
        &[70_021, 700_211, 700_212, 700_213],
        Severity::Mend,
        "no federated credential of the application matches the platform's token",
        "in the Azure portal compare issuer, subject and audience of the federated credential (Certificates & secrets) with the token's, letter by letter",
    ),
    Row(
        &[50_001, 500_011, 650_052, 650_054],
        Severity::Mend,
        "the mail service is not known in this tenant",
        "check scope, cloud and tenant, and that the tenant has Exchange Online",
    ),
    Row(
        &[65_001],
        Severity::SignIn,
        "the permission to send mail is not consented to",
        "add SMTP.Send to the registration's permissions, then sign in again and consent: gatepost login ACCOUNT",
    ),
    Row(
        &[65_005, 650_056, 650_057],
        Severity::Mend,
        "the permission is missing in the registration",
        "add the permission SMTP.Send (or SMTP.SendAsApp for client credentials) and grant admin consent",
    ),
    Row(
        &[90_094, 90_095],
        Severity::Mend,
        "an administrator must consent",
        "have an administrator grant consent in the Azure portal, then: gatepost login ACCOUNT",
    ),
    Row(
        &[65_004],
        Severity::SignIn,
        "consent was declined",
        "sign in again and consent: gatepost login ACCOUNT",
    ),
    Row(
        &[70_011, 28_002, 28_003, 700_022, 700_023, 1_002_012],
        Severity::Mend,
        "the scope is not accepted",
        "name one resource in scope; client credentials need a scope that ends in /.default",
    ),
    Row(
        &[700_082, 70_008],
        Severity::SignIn,
        "the sign-in has expired because it was not used",
        AGAIN,
    ),
    Row(
        &[700_084],
        Severity::SignIn,
        "the sign-in has expired: the redirect URI is registered as single-page application",
        "register it under Web or Mobile and desktop, then: gatepost login ACCOUNT",
    ),
    Row(
        &[70_043],
        Severity::SignIn,
        "a sign-in frequency policy ended the sign-in",
        "exclude the mailbox from the policy or use client_credentials; then: gatepost login ACCOUNT",
    ),
    Row(
        &[50_173, 50_133, 50_132, 50_089, 50_085, 50_058],
        Severity::SignIn,
        "the sign-in was revoked (often by a new password)",
        AGAIN,
    ),
    Row(
        &[70_000],
        Severity::SignIn,
        "the refresh token is not valid",
        AGAIN,
    ),
    Row(
        &[50_055, 50_144],
        Severity::SignIn,
        "the password has expired",
        "set a new password, then: gatepost login ACCOUNT",
    ),
    Row(
        &[50_056, 50_126, 50_064],
        Severity::SignIn,
        "the password is wrong",
        AGAIN,
    ),
    Row(
        &[50_057],
        Severity::Mend,
        "the mailbox's user is disabled",
        "enable the user in the Microsoft admin center",
    ),
    Row(
        &[50_053],
        Severity::Mend,
        "the user is locked, or this address is blocked as malicious",
        "unlock the user and look at the sign-in log for the reason",
    ),
    Row(
        &[50_105],
        Severity::Mend,
        "the user is not assigned to the application",
        "assign the user (Enterprise applications, Users and groups), or turn assignment off",
    ),
    Row(
        &[50_014, 50_020, 50_034, 51_004, 90_072],
        Severity::SignIn,
        "the user does not belong to this tenant",
        "sign in with the right account, or correct tenant of the provider profile",
    ),
    Row(
        &[50_072, 50_074, 50_076, 50_078, 50_079, 53_004],
        Severity::SignIn,
        "multi-factor authentication is demanded",
        "sign in again with the second factor: gatepost login ACCOUNT; or use client_credentials",
    ),
    Row(
        &[50_097, 50_129, 53_000, 53_001, 53_002, 50_005],
        Severity::Mend,
        "a policy demands a managed device",
        "exclude this application or mailbox from the policy (Conditional Access)",
    ),
    Row(
        &[50_131, 53_003, 530_032],
        Severity::Mend,
        "Conditional Access blocks the sign-in",
        "look at the sign-in log for the policy's name and exclude this application or mailbox",
    ),
    Row(
        &[530_035],
        Severity::Mend,
        "security defaults block the sign-in",
        "use another grant (authorization_code or client_credentials)",
    ),
    Row(
        &[53_011, 50_135],
        Severity::Mend,
        "the user is at risk according to Identity Protection",
        "have an administrator remediate the user's risk",
    ),
    Row(
        &[50_140, 50_199, 51_006],
        Severity::SignIn,
        "the provider wants the person to act",
        AGAIN,
    ),
    Row(
        &[50_196],
        Severity::Mend,
        "the provider saw the same request too often",
        "wait; it is tried again by itself",
    ),
    Row(
        &[
            54_005, 50_147, 501_481, 501_491, 700_005, 50_134, 90_120, 70_018, 70_019,
        ],
        Severity::SignIn,
        "the sign-in's code was used, has expired or belongs to another sign-in",
        "begin again: gatepost login ACCOUNT",
    ),
    Row(
        &[9_002_313, 90_014, 900_144],
        Severity::Mend,
        "the provider finds the request malformed",
        "check client_id, tenant and URLs of the provider profile",
    ),
    Row(
        &[90_055],
        Severity::Mend,
        "the provider throttles this tenant",
        "wait; it is tried again by itself",
    ),
];

/// Errors about a consent that nobody has given: the refresh token may serve other resources.
pub(super) const PERMISSION_ERRORS: &[&str] = &["consent_required"];

/// The same as AADSTS numbers: not consented, not among the registration's permissions.
pub(super) const PERMISSION_AADSTS: &[u32] = &[65_001, 65_005, 650_056, 650_057];

/// Other errors about what was asked for, not about who asks.
pub(super) const SERVICE_ERRORS: &[&str] = &["invalid_scope", "invalid_resource"];

/// The same as AADSTS numbers: resource unknown, scope refused, administrator's consent missing.
pub(super) const SERVICE_AADSTS: &[u32] = &[
    50_001, 500_011, 70_011, 28_002, 28_003, 700_022, 700_023, 90_094, 90_095,
];
