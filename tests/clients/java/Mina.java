// Apache MINA SSHD as a client of the tests: see tests/program/clients.rs for what it is asked to do.

import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.security.KeyPair;
import java.security.PublicKey;
import java.time.Duration;
import java.util.*;
import org.apache.sshd.client.SshClient;
import org.apache.sshd.client.auth.keyboard.UserInteraction;
import org.apache.sshd.client.channel.*;
import org.apache.sshd.client.session.ClientSession;
import org.apache.sshd.common.NamedResource;
import org.apache.sshd.common.SshConstants;
import org.apache.sshd.common.SshException;
import org.apache.sshd.common.config.keys.FilePasswordProvider;
import org.apache.sshd.common.config.keys.KeyUtils;
import org.apache.sshd.common.config.keys.PublicKeyEntry;
import org.apache.sshd.common.util.io.output.NoCloseOutputStream;
import org.apache.sshd.common.util.net.SshdSocketAddress;
import org.apache.sshd.common.util.security.SecurityUtils;
import org.apache.sshd.server.forward.AcceptAllForwardingFilter;
import org.apache.sshd.sftp.client.SftpClient;
import org.apache.sshd.sftp.client.SftpClientFactory;
import org.apache.sshd.sftp.common.SftpConstants;
import org.apache.sshd.sftp.common.SftpException;

public class Mina {
    static final Duration PATIENCE = Duration.ofSeconds(60);

    static ClientSession connect(SshClient client, String method) throws Exception {
        Map<String, String> environment = System.getenv();
        PublicKey known = PublicKeyEntry.parsePublicKeyEntry(environment.get("HOST_KEY")).resolvePublicKey(null, Map.of(), null);
        client.setServerKeyVerifier((session, address, key) -> KeyUtils.compareKeys(key, known));
        client.setForwardingFilter(AcceptAllForwardingFilter.INSTANCE);
        client.setUserAuthFactoriesNames(method.equals("key") ? "publickey" : method);
        client.setKeyIdentityProvider(null);
        String password = environment.get("PASSWORD");
        client.setUserInteraction(new UserInteraction() {
            public String[] interactive(ClientSession session, String name, String text, String lang, String[] prompts, boolean[] echo) {
                String[] answers = new String[prompts.length];
                Arrays.fill(answers, password);
                return answers;
            }
            public String getUpdatedPassword(ClientSession session, String prompt, String lang) {
                return null;
            }
        });
        client.start();
        ClientSession session = client.connect("alice", "127.0.0.1", Integer.parseInt(environment.get("PORT"))).verify(PATIENCE).getSession();
        if (method.equals("key")) {
            Path path = Path.of(environment.get("KEY"));
            try (InputStream file = Files.newInputStream(path)) {
                NamedResource name = NamedResource.ofName(path.toString());
                for (KeyPair pair : SecurityUtils.loadKeyPairIdentities(null, name, file, FilePasswordProvider.EMPTY))
                    session.addPublicKeyIdentity(pair);
            }
        } else if (method.equals("password")) {
            session.addPasswordIdentity(password);
        }
        session.auth().verify(PATIENCE);
        return session;
    }

    static int execute(ClientSession session, String command, boolean terminal) throws Exception {
        ChannelExec channel = session.createExecChannel(command);
        if (terminal) {
            channel.setUsePty(true);
            channel.setPtyType("vt220");
            channel.setPtyColumns(100);
            channel.setPtyLines(40);
        }
        channel.setIn(System.in);
        // It would close these with the channel.
        channel.setOut(new NoCloseOutputStream(System.out));
        channel.setErr(new NoCloseOutputStream(System.err));
        channel.open().verify(PATIENCE);
        channel.waitFor(EnumSet.of(ClientChannelEvent.CLOSED), 0);
        if (channel.getExitSignal() != null) {
            System.err.println("signal " + channel.getExitSignal());
            return 255;
        }
        return channel.getExitStatus();
    }

    static int relay(ClientSession session, String host, int port) throws Exception {
        ChannelDirectTcpip channel =
            session.createDirectTcpipChannel(new SshdSocketAddress("127.0.0.1", 0), new SshdSocketAddress(host, port));
        channel.open().verify(PATIENCE);
        Thread sending = new Thread(() -> {
            try (OutputStream input = channel.getInvertedIn()) {
                System.in.transferTo(input);
            } catch (IOException error) {
                // The other end has gone.
            }
        });
        // Nobody waits for a client that goes on sending.
        sending.setDaemon(true);
        sending.start();
        channel.getInvertedOut().transferTo(System.out);
        channel.close(false);
        return 0;
    }

    static int listen(ClientSession session) throws Exception {
        ServerSocket server = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
        SshdSocketAddress bound = session.startRemotePortForwarding(
            new SshdSocketAddress("127.0.0.1", 0), new SshdSocketAddress("127.0.0.1", server.getLocalPort()));
        Thread answering = new Thread(() -> {
            try (Socket socket = server.accept()) {
                byte[] question = socket.getInputStream().readAllBytes();
                socket.getOutputStream().write("you said ".getBytes());
                socket.getOutputStream().write(question);
            } catch (IOException error) {
                error.printStackTrace();
            }
        });
        answering.start();
        int status = execute(session, "echo hello | nc 127.0.0.1 " + bound.getPort(), false);
        answering.join();
        session.stopRemotePortForwarding(bound);
        return status;
    }

    static void check(boolean holds) {
        if (!holds) throw new AssertionError();
    }

    static int files(ClientSession session, String near, String far, String back) throws Exception {
        try (SftpClient sftp = SftpClientFactory.instance().createSftpClient(session)) {
            try (OutputStream file = sftp.write(far)) {
                Files.copy(Path.of(near), file);
            }
            check(sftp.stat(far).getSize() == Files.size(Path.of(near)));
            String directory = far + ".d";
            sftp.mkdir(directory);
            sftp.rename(far, directory + "/moved");
            sftp.symLink(directory + "/link", "moved");
            List<String> names = new ArrayList<>();
            for (SftpClient.DirEntry entry : sftp.readDir(directory))
                if (!entry.getFilename().startsWith(".")) names.add(entry.getFilename());
            Collections.sort(names);
            check(names.equals(List.of("link", "moved")));
            check(sftp.readLink(directory + "/link").equals("moved"));
            sftp.setStat(directory + "/moved", new SftpClient.Attributes().perms(0640));
            try (SftpClient.CloseableHandle file =
                    sftp.open(directory + "/link", SftpClient.OpenMode.Read, SftpClient.OpenMode.Write)) {
                sftp.write(file, 3, "berth".getBytes());
                byte[] read = new byte[8];
                check(sftp.read(file, 0, read) == 8 && new String(read, 3, 5, StandardCharsets.UTF_8).equals("berth"));
            }
            try (InputStream file = sftp.read(directory + "/moved")) {
                Files.copy(file, Path.of(back));
            }
            try {
                sftp.remove(directory + "/nothing");
                throw new AssertionError("what is not there was removed");
            } catch (SftpException error) {
                check(error.getStatus() == SftpConstants.SSH_FX_NO_SUCH_FILE);
            }
        }
        return 0;
    }

    public static void main(String[] words) throws Exception {
        int status = 1;
        try (SshClient client = SshClient.setUpDefaultClient(); ClientSession session = connect(client, words[0])) {
            status = switch (words[1]) {
                case "exec" -> execute(session, words[2], false);
                case "terminal" -> execute(session, words[2], true);
                case "connect" -> relay(session, words[2], Integer.parseInt(words[3]));
                case "listen" -> listen(session);
                case "files" -> files(session, words[2], words[3], words[4]);
                default -> throw new IllegalArgumentException(words[1]);
            };
        } catch (SshException error) {
            boolean denied = error.getDisconnectCode() == SshConstants.SSH2_DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE;
            System.err.println((denied ? "authentication failed: " : "") + error.getMessage());
        }
        System.out.flush();
        System.exit(status);
    }
}
