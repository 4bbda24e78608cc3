// The AAR: the layer of ../src, the code generated for Android, the worker, and a library for each ABI. build.sh runs it.
plugins {
    id("com.android.library") version "8.13.0"
    id("org.jetbrains.kotlin.android") version "2.2.21"
    id("maven-publish")
}

group = "org.sftmix"
version = "0.1.0"

// The folder that build.sh fills: generated/ and jniLibs/.
val made = providers.gradleProperty("sftmix.made").get()

android {
    namespace = "org.sftmix"
    compileSdk = 36
    defaultConfig {
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    sourceSets["main"].apply {
        kotlin.srcDirs("src/main/kotlin", "../src/main/kotlin", "$made/generated")
        jniLibs.srcDirs("$made/jniLibs")
    }
    publishing { singleVariant("release") { withSourcesJar() } }
}

kotlin { jvmToolchain(17) }

dependencies {
    // The artefact of JNA that has Android's libraries.
    api("net.java.dev.jna:jna:5.19.1@aar")
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")
    api("androidx.work:work-runtime-ktx:2.10.5")
    implementation("androidx.annotation:annotation:1.9.1")
}

publishing {
    publications {
        register<MavenPublication>("release") {
            artifactId = "sftmix-android"
            afterEvaluate { from(components["release"]) }
        }
    }
    repositories { maven { name = "built"; url = uri("$made/repository") } }
}
