// An OpenID Connect provider that lets everybody in by name: provider.mjs PORT ISSUER REDIRECT-URI. It listens without TLS;
// the issuer's URL is that of a relay with TLS. The ID tokens of users of some names are no good.
import { generateKeyPairSync, sign } from "node:crypto";
import Provider from "oidc-provider";

const other = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
const base64url = (bytes) => Buffer.from(bytes).toString("base64url");

// What becomes of the parts of an ID token, by the user's name.
const forgeries = {
    "another-key": (header, claims) => [header, claims, base64url(sign("sha256", `${header}.${claims}`, other))],
    "no-algorithm": (_, claims) => [base64url(JSON.stringify({ alg: "none" })), claims, ""],
    "a-changed-bit": (header, claims, signature) => {
        const bytes = Buffer.from(signature, "base64url");
        bytes[0] ^= 1;
        return [header, claims, base64url(bytes)];
    },
};

function forged(token) {
    const parts = token.split(".");
    const { sub } = JSON.parse(Buffer.from(parts[1], "base64url"));
    return sub in forgeries ? forgeries[sub](...parts).join(".") : token;
}

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
provider.use(async (context, next) => {
    context.headers["x-forwarded-proto"] = "https";
    await next();
    if (context.body?.id_token) {
        context.body.id_token = forged(context.body.id_token);
    }
});
provider.on("server_error", (_, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.error("listening"));
