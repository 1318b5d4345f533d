"""datasets/media.py: the values are those of librosa, Pillow, torchvision and PyAV; damaged files are refused."""

import io
import shutil

import av
import librosa
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torchvision.transforms import v2

from igm.datasets import media, synthetic
from igm.datasets.media import Unreadable


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def speech(rng, seconds, rate):
    """A buzz of harmonics, gliding, in a little noise."""
    t = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * k * (150 * t + 20 * t**2)) / k for k in range(1, 9))
    return (0.1 * tone + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


def photograph(rng, height, width):
    """Smooth colours with edges and grain."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (17 + i)) * np.cos(y / (23 + i)) * 90 + 128 for i in range(3)]
    image = np.stack(planes, -1) + rng.normal(0, 4, (height, width, 3))
    image[height // 3 :, : width // 4] = 255 - image[height // 3 :, : width // 4]
    return np.clip(image, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize(("rate", "seconds", "columns"), [(22050, 3, 188), (35400, 10, 1003)])
@pytest.mark.parametrize("native", [16000, 44100])
def test_spectrograms_are_those_of_librosa(tmp_path, rng, rate, seconds, columns, native):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(rng, 2.3, native), native, subtype="PCM_16")
    samples, _ = librosa.load(path, sr=rate)
    long = np.clip(np.concatenate([samples] * 5)[: rate * seconds], -1, 1)
    expected = np.log(np.abs(librosa.stft(long, n_fft=512, hop_length=353)) + 1e-7)
    ours = media.log_spectrogram(media.fit_length(media.read_audio(path, rate), rate * seconds))
    assert ours.shape == expected.shape == (257, columns)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-4


def test_one_stft_bin_by_hand(rng):
    samples = rng.standard_normal(2000).astype(np.float32)
    n, k, frame = np.arange(512), 37, 3
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    piece = samples[frame * 353 - 256 : frame * 353 + 256]
    expected = np.log(abs(np.sum(window * piece * np.exp(-2j * np.pi * k * n / 512))) + 1e-7)
    assert media.log_spectrogram(samples)[k, frame] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("native", [8000, 22050, 48000])
def test_any_rate_and_number_of_channels_becomes_one_channel(tmp_path, rng, channels, native):
    sound = np.stack([speech(rng, 0.5, native) * (i + 1) / channels for i in range(channels)], 1)
    soundfile.write(tmp_path / "a.wav", sound, native, subtype="FLOAT")
    expected, _ = librosa.load(tmp_path / "a.wav", sr=22050)
    ours = media.read_audio(tmp_path / "a.wav", 22050)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-5


def test_short_sounds_repeat_and_loud_ones_are_clipped():
    fitted = media.fit_length(np.array([0.5, -3, 2], np.float32), 8)
    assert fitted.tolist() == [0.5, -1, 1, 0.5, -1, 1, 0.5, -1]
    assert media.fit_length(np.arange(10) / 10, 3).tolist() == [0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer.*lfs pull"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sound file"),
        (b"<html>404</html>", "not a sound file"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path, content, reason):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(Unreadable, match=rf"a\.wav.*{reason}"):
        media.read_audio(tmp_path / "a.wav", 22050)


def test_a_sound_without_samples_or_with_nan_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(Unreadable, match="no samples"):
        media.read_audio(tmp_path / "empty.wav", 22050)
    with pytest.raises(Unreadable, match="not finite"):
        media.read_audio(tmp_path / "nan.wav", 22050)


# ---------------------------------------------------------------- pictures


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def test_pixels_are_those_of_pillow(tmp_path, rng):
    path = saved(tmp_path / "a.jpg", photograph(rng, 90, 130), quality=80)
    assert np.array_equal(media.read_image(path), np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_kinds_of_pictures_become_rgb(tmp_path, rng, mode):
    image = Image.fromarray(photograph(rng, 40, 60)).convert(mode)
    path = tmp_path / "a.jpg"
    image.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    ours, pillow = media.read_image(path), np.array(Image.open(path).convert("RGB"))
    assert ours.shape == (40, 60, 3)
    assert np.abs(ours.astype(int) - pillow).mean() < 1 + 20 * (mode == "CMYK")


def test_a_turn_in_the_exif_data_is_not_made(tmp_path, rng):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", photograph(rng, 40, 60), exif=exif)
    assert media.read_image(path).shape == (40, 60, 3)


@pytest.mark.parametrize("left", [0.02, 0.5, 0.99])
def test_a_jpeg_that_was_cut_off_is_refused(tmp_path, rng, left):
    content = media.jpeg(photograph(rng, 90, 130))
    (tmp_path / "a.jpg").write_bytes(content[: int(left * len(content))])
    with pytest.raises(Unreadable, match=r"a\.jpg is (a damaged|not a) picture"):
        media.read_image(tmp_path / "a.jpg")


def test_evaluation_pixels_are_those_of_torchvision(rng):
    image = photograph(rng, 360, 480)
    chain = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((224, 224)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    ours = media.normalise(media.resize(torch.from_numpy(image).permute(2, 0, 1), 224))
    assert (ours - chain(image)).abs().max() < 1e-4


def test_a_crop_is_that_of_torchvision_at_its_box(rng, monkeypatch):
    image = torch.from_numpy(photograph(rng, 120, 160)).permute(2, 0, 1)
    monkeypatch.setattr(media, "crop_box", lambda h, w, rng: (10, 20, 70, 90))
    theirs = v2.functional.resized_crop(image, 10, 20, 70, 90, [64, 64], antialias=True)
    crops = [media.random_crop(image, 64, np.random.default_rng(s)) for s in range(8)]
    flipped = [torch.equal(crop, theirs.flip(-1)) for crop in crops]
    assert [torch.equal(crop, theirs) for crop in crops] == [not f for f in flipped]
    assert 0 < sum(flipped) < 8


def test_boxes_are_distributed_as_those_of_torchvision():
    ours = [media.crop_box(90, 160, np.random.default_rng(seed)) for seed in range(2000)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = v2.RandomResizedCrop(8)
        picture = torch.empty(3, 90, 160)
        drawn = [crop.make_params([picture]) for _ in range(2000)]
    theirs = [(d["top"], d["left"], d["height"], d["width"]) for d in drawn]
    for ours_i, theirs_i in zip(np.transpose(ours), np.transpose(theirs)):
        assert (
            np.abs(
                np.quantile(ours_i, [0.1, 0.5, 0.9]) - np.quantile(theirs_i, [0.1, 0.5, 0.9])
            ).max()
            < 6
        )
    for top, left, height, width in ours:
        assert 0 <= top <= 90 - height and 0 <= left <= 160 - width and height and width


def test_a_narrow_picture_gets_the_largest_box_in_its_middle():
    assert media.crop_box(10, 1000, np.random.default_rng(0)) == (0, 493, 10, 13)


# ---------------------------------------------------------------- videos


def clip(path, frames=25, fps=10, sound=None):
    pictures = [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(frames)]
    synthetic.write_video(path, pictures, fps, sound, 16000)
    return path


@pytest.mark.parametrize("suffix", ["flv", "mp4", "avi"])
def test_frames_are_read_in_order_and_one_a_second_kept(tmp_path, suffix):
    path = clip(tmp_path / f"a.{suffix}")
    frames = list(media.video_frames(path))
    assert [round(time, 3) for time, _ in frames] == [i / 10 for i in range(25)]
    grey = [frame.mean() for _, frame in frames]
    assert np.allclose(grey, [9 * i for i in range(25)], atol=6)
    kept = media.every_second(iter(frames))
    assert np.allclose([frame.mean() for frame in kept], [0, 90, 180], atol=6)


def test_red_stays_red(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    synthetic.write_video(tmp_path / "a.mp4", [red] * 5, 5)
    _, frame = next(media.video_frames(tmp_path / "a.mp4"))
    assert frame[..., 0].mean() > 170 and frame[..., 2].mean() < 40


@pytest.mark.parametrize("content", [b"", b"FLV\x01\x05\x00\x00\x00\x09", b"no video at all" * 99])
def test_what_has_no_frames_is_refused(tmp_path, content):
    (tmp_path / "a.flv").write_bytes(content)
    with pytest.raises(Unreadable, match=r"a\.flv (is empty|has no frame)"):
        list(media.video_frames(tmp_path / "a.flv"))


def test_a_git_lfs_pointer_in_place_of_a_video_is_explained(tmp_path):
    (tmp_path / "a.flv").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(Unreadable, match="git lfs pull"):
        list(media.video_frames(tmp_path / "a.flv"))


def test_a_folder_of_frames_is_read_by_name_without_what_systems_leave_there(tmp_path, rng):
    for name in (
        "00010.jpg",
        "00002.jpg",
        "._00001.jpg",
        ".DS_Store",
        "Thumbs.db",
        "a.JPEG",
        "b.txt",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in media.pictures_in(tmp_path)] == ["00002.jpg", "00010.jpg", "a.JPEG"]
    (tmp_path / "none").mkdir()
    for folder, reason in ((tmp_path / "none", "no frames"), (tmp_path / "gone", "missing")):
        with pytest.raises(Unreadable, match=reason):
            media.pictures_in(folder)


def test_an_unreadable_file_is_the_same_error_after_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(Unreadable("x.wav", "is empty")))
    assert str(error) == "x.wav is empty" and error.path == "x.wav"


def test_the_libraries_agree_on_what_a_written_video_holds(tmp_path, rng):
    path = clip(tmp_path / "a.mp4", sound=speech(rng, 2.5, 16000))
    with av.open(str(path)) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
    again = clip(tmp_path / "b.mp4", sound=speech(np.random.default_rng(0), 2.5, 16000))
    assert path.read_bytes() == again.read_bytes()
    assert shutil.which("ffmpeg") is None or path.stat().st_size > 1000
    assert io.BytesIO(path.read_bytes()).read(8)[4:] == b"ftyp"
