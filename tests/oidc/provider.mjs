// An OpenID Connect provider that lets everybody in by name: provider.mjs PORT ISSUER REDIRECT-URI. It listens without TLS;
// the issuer's URL is that of a relay with TLS.
import Provider from "oidc-provider";

const [port, issuer, redirect] = process.argv.slice(2);
const provider = new Provider(issuer, {
    clients: [{
        client_id: "berth",
        client_secret: "s3cret/+&",
        grant_types: ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
        redirect_uris: [redirect],
        response_types: ["code"],
    }],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@example.org`, email_verified: id !== "mallory" }) }),
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    scopes: ["openid", "email"],
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    features: { deviceFlow: { enabled: true } },
    cookies: { keys: ["for tests alone"] },
});
provider.proxy = true;
provider.use((context, next) => {
    context.headers["x-forwarded-proto"] = "https";
    return next();
});
provider.on("server_error", (_, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.error("listening"));
