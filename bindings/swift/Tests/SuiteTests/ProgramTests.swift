import Foundation
import SFTMix
import XCTest

/// Programs in processes of their own: the example, those of the documents, and what must not grow or be printed.
final class ProgramTests: SuiteCase {
    private var programs: String { told["SFTMIX_BIN"]! }

    private func ran(_ name: String, _ arguments: [String] = []) throws -> String {
        // As a reader of the pages makes it.
        XCTAssertEqual(try process(told["SFTMIX_PROGRAM"]!, ["demo", "--write", "demo"], folder: folder).code, 0)
        let ended = try process(programs + "/" + name, arguments, folder: folder)
        XCTAssertEqual(ended.code, 0, ended.err)
        XCTAssertEqual(ended.err, "")
        return ended.out
    }

    func testTheExample() throws {
        let said = try ran("finetune", ["demo", "run"])
        for part in ["step 10 of", "paused:", "ended: stopped", "held-out loss", "row ", "gguf", "mlx"] {
            XCTAssertTrue(said.contains(part), "\(part): \(said)")
        }
        XCTAssertTrue(files.fileExists(atPath: folder + "/run/exports"))
    }

    func testTheProgramOfTheReadme() throws {
        XCTAssertFalse(try ran("readme").isEmpty)
        XCTAssertTrue(files.fileExists(atPath: folder + "/run/adapter"))
    }

    func testTheProgramOfTheApiPage() throws {
        let said = try ran("api")
        XCTAssertTrue(said.contains("lr"), said)
        XCTAssertTrue(files.fileExists(atPath: folder + "/merged/config.json"))
    }

    func testMemoryDoesNotGrowOverTwoHundredCyclesAndNothingIsPrinted() throws {
        let given = settings(run) {
            $0.recipe = "ntp"
            $0.maxSteps = 1
            $0.warmupRatio = 0
            $0.maxLength = 16
            $0.cacheDir = folder + "/cache"
        }
        // glibc keeps a heap for each of up to sixteen threads, which fill over dozens of cycles; two fill at once.
        let ended = try process(
            programs + "/helper", ["cycles", run],
            environment: [
                "SFTMIX_SETTINGS": String(decoding: try JSONEncoder().encode(given), as: UTF8.self),
                "MALLOC_ARENA_MAX": "2",
            ])
        XCTAssertEqual(ended.err, "")
        let figures = ended.out.split(separator: "\n").compactMap { Int($0) }
        guard figures.count == 2, ended.code == 0 else { return XCTFail("\(ended)") }
        XCTAssertLessThanOrEqual(figures[1], figures[0] + 2_000_000)
    }
}
