// JSch as a client of the tests: see tests/program/clients.rs for what it is asked to do.

import com.jcraft.jsch.*;
import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;

public class Jsch {
    /** Has the password for whoever asks. */
    record Answers(String password) implements UserInfo, UIKeyboardInteractive {
        public String getPassphrase() { return null; }
        public String getPassword() { return password; }
        public boolean promptPassword(String message) { return true; }
        public boolean promptPassphrase(String message) { return false; }
        public boolean promptYesNo(String message) { return false; }
        public void showMessage(String message) {}
        public String[] promptKeyboardInteractive(String to, String name, String text, String[] prompts, boolean[] echo) {
            String[] answers = new String[prompts.length];
            Arrays.fill(answers, password);
            return answers;
        }
    }

    static Session connect(String method) throws Exception {
        Map<String, String> environment = System.getenv();
        String port = environment.get("PORT");
        JSch jsch = new JSch();
        String known = "[127.0.0.1]:" + port + " " + environment.get("HOST_KEY") + "\n";
        jsch.setKnownHosts(new ByteArrayInputStream(known.getBytes(StandardCharsets.UTF_8)));
        if (method.equals("key")) jsch.addIdentity(environment.get("KEY"));
        Session session = jsch.getSession("alice", "127.0.0.1", Integer.parseInt(port));
        session.setConfig("StrictHostKeyChecking", "yes");
        session.setConfig("PreferredAuthentications", method.equals("key") ? "publickey" : method);
        // It would take the same one again.
        session.setConfig("MaxAuthTries", "1");
        if (!method.equals("key")) session.setUserInfo(new Answers(environment.get("PASSWORD")));
        session.connect(60_000);
        return session;
    }

    static Thread copying(InputStream from, OutputStream to, boolean close) {
        Thread thread = new Thread(() -> {
            try {
                byte[] buffer = new byte[32768];
                for (int count; (count = from.read(buffer)) > 0; to.flush()) to.write(buffer, 0, count);
                if (close) to.close();
            } catch (IOException error) {
                // Whoever is at the other end has gone.
            }
        });
        // Nobody waits for a client that goes on sending.
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    static int execute(Session session, String command, boolean terminal) throws Exception {
        ChannelExec channel = (ChannelExec) session.openChannel("exec");
        channel.setCommand(command.getBytes(StandardCharsets.UTF_8));
        if (terminal) {
            channel.setPty(true);
            channel.setPtyType("vt220", 100, 40, 0, 0);
        }
        InputStream output = channel.getInputStream(), errors = channel.getErrStream();
        OutputStream input = channel.getOutputStream();
        channel.connect(60_000);
        Thread[] readers = {copying(output, System.out, false), copying(errors, System.err, false)};
        copying(System.in, input, true);
        for (Thread reader : readers) reader.join();
        while (!channel.isClosed()) Thread.sleep(10);
        // Signals are nothing that it knows: it has -1 for them.
        return channel.getExitStatus();
    }

    static int relay(Session session, String host, int port) throws Exception {
        ChannelDirectTCPIP channel = (ChannelDirectTCPIP) session.openChannel("direct-tcpip");
        channel.setHost(host);
        channel.setPort(port);
        InputStream output = channel.getInputStream();
        OutputStream input = channel.getOutputStream();
        channel.connect(60_000);
        copying(System.in, input, true);
        copying(output, System.out, false).join();
        return 0;
    }

    static int listen(Session session) throws Exception {
        ServerSocket server = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
        int port = session.setPortForwardingR("127.0.0.1:0:127.0.0.1:" + server.getLocalPort());
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
        int status = execute(session, "echo hello | nc 127.0.0.1 " + port, false);
        answering.join();
        session.delPortForwardingR(port);
        return status;
    }

    static void check(boolean holds) {
        if (!holds) throw new AssertionError();
    }

    static int files(Session session, String near, String far, String back) throws Exception {
        ChannelSftp sftp = (ChannelSftp) session.openChannel("sftp");
        sftp.connect(60_000);
        sftp.put(near, far);
        long size = Files.size(Path.of(near));
        check(sftp.stat(far).getSize() == size);
        String directory = far + ".d";
        sftp.mkdir(directory);
        sftp.rename(far, directory + "/moved");
        sftp.symlink("moved", directory + "/link");
        List<String> names = new ArrayList<>();
        for (ChannelSftp.LsEntry entry : sftp.ls(directory))
            if (!entry.getFilename().startsWith(".")) names.add(entry.getFilename());
        Collections.sort(names);
        check(names.equals(List.of("link", "moved")));
        check(sftp.readlink(directory + "/link").equals("moved"));
        sftp.chmod(0640, directory + "/moved");
        // It counts from the end.
        try (OutputStream file = sftp.put(directory + "/link", null, ChannelSftp.APPEND, 3 - size)) {
            file.write("berth".getBytes());
        }
        sftp.get(directory + "/moved", back);
        try {
            sftp.rm(directory + "/nothing");
            throw new AssertionError("what is not there was removed");
        } catch (SftpException error) {
            check(error.id == ChannelSftp.SSH_FX_NO_SUCH_FILE);
        }
        sftp.disconnect();
        return 0;
    }

    public static void main(String[] words) throws Exception {
        int status = 1;
        Session session = null;
        try {
            session = connect(words[0]);
            status = switch (words[1]) {
                case "exec" -> execute(session, words[2], false);
                case "terminal" -> execute(session, words[2], true);
                case "connect" -> relay(session, words[2], Integer.parseInt(words[3]));
                case "listen" -> listen(session);
                case "files" -> files(session, words[2], words[3], words[4]);
                default -> throw new IllegalArgumentException(words[1]);
            };
        } catch (JSchException error) {
            String text = String.valueOf(error.getMessage());
            System.err.println((text.startsWith("Auth fail") ? "authentication failed: " : "") + text);
        } finally {
            if (session != null) session.disconnect();
        }
        System.out.flush();
        System.exit(status);
    }
}
